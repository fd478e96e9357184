// What engines draw and score: carried tokens, choices, log probabilities, rules that read tokens.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/worker/engine_group.h"
#include "worker/engine.h"

namespace tessera {
namespace {

using cluster::v1::StepPlan;
using cluster::v1::StepResult;
using testing::ElementsAre;
using testing::HasSubstr;

class EngineSamplingTest : public EngineGroupTest {};

// The only row carries what the sequence drew in the step before.
void Carry(StepPlan& plan) {
  plan.set_token_source(0, cluster::v1::TOKENS_LAST_SAMPLED);
  plan.clear_tokens();
  plan.add_source_step(plan.step() - 1);
  plan.add_source_row(0);
}

cluster::v1::SamplingParams Penalized() {
  cluster::v1::SamplingParams sampling;
  sampling.set_temperature(0.7f);
  sampling.set_top_p(0.95f);
  sampling.set_seed(5);
  sampling.set_repetition_penalty(1.5f);
  sampling.set_frequency_penalty(0.6f);
  sampling.set_min_p(0.01f);
  return sampling;
}

void AddHistory(StepPlan& plan, const cluster::v1::SamplingParams& sampling, uint32_t num_prompt,
                const std::vector<int32_t>& history) {
  if (plan.resets_size() == 0) plan.add_resets();
  *plan.mutable_resets(0)->mutable_sampling() = sampling;
  plan.mutable_resets(0)->set_num_prompt_tokens(num_prompt);
  plan.mutable_resets(0)->mutable_history()->Assign(history.begin(), history.end());
}

// The same text, whether tokens travel to the coordinator and back, stay on the ranks, or the
// sequence is begun anew from its history in the middle. The penalties make every draw depend on
// all tokens before.
TEST_F(EngineSamplingTest, TheWayOfATokenDoesNotShow) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  const std::vector<int32_t> prompt = {3, 1, 4, 1, 5, 9};
  enum class Way { kExplicit, kCarried, kBegunAnew };
  std::vector<std::vector<int32_t>> texts;
  for (const Way way : {Way::kExplicit, Way::kCarried, Way::kBegunAnew}) {
    uint64_t id = 10 * (static_cast<uint64_t>(way) + 1);
    StepPlan plan = NewPlan();
    AddRow(plan, id, 0, prompt, {0, 1}, true);
    AddHistory(plan, Penalized(), 6, prompt);
    std::vector<int32_t> text = prompt;
    text.push_back(Execute(plan)[0].sampled(0));
    while (text.size() < 30) {
      plan = NewPlan();
      const uint32_t last = static_cast<uint32_t>(text.size()) - 1;
      if (way == Way::kBegunAnew && text.size() == 17) {
        plan.add_finished_sequences(id);
        AddRow(plan, ++id, 0, text, {2, 3}, true);
        AddHistory(plan, Penalized(), 6, text);
      } else {
        AddRow(plan, id, last, {text.back()}, {}, true);
        if (way == Way::kCarried) Carry(plan);
      }
      for (const StepResult& result : Execute(plan)) {
        ASSERT_FALSE(result.has_error()) << result.error().message();
        ASSERT_EQ(result.sampled_size(), 1);
        if (result.rank() == 0) text.push_back(result.sampled(0));
        EXPECT_EQ(result.sampled(0), text.back());
        EXPECT_EQ(result.tokens_computed(), plan.num_new_tokens(0));
      }
    }
    texts.push_back(text);
  }
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_EQ(texts[0], texts[2]);
}

TEST_F(EngineSamplingTest, OnlyADrawOfTheStepBeforeCanBeCarried) {
  ASSERT_NO_FATAL_FAILURE(Start(1));
  StepPlan prompt = NewPlan();
  AddRow(prompt, 1, 0, {3, 1, 4}, {0}, true);
  Execute(prompt);
  Execute(NewPlan());
  StepPlan late = NewPlan();
  AddRow(late, 1, 3, {0}, {}, true);
  Carry(late);
  EXPECT_THAT(Execute(late)[0].error().message(), HasSubstr("source_row[0] = 0"));
  // The sequence is as it was.
  StepPlan given = NewPlan();
  AddRow(given, 1, 3, {7}, {}, true);
  EXPECT_FALSE(Execute(given)[0].has_error());
}

TEST_F(EngineSamplingTest, ChoicesAreThoseOfSequencesAlone) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  cluster::v1::SamplingParams sampling;
  sampling.set_temperature(3);
  sampling.set_top_p(1);
  sampling.set_seed(12);
  sampling.set_logprobs(true);
  StepPlan plan = NewPlan();
  AddRow(plan, 1, 0, {3, 1, 4}, {0}, true);
  plan.set_num_choices(0, 5);
  AddHistory(plan, sampling, 3, {});
  plan.add_finished_sequences(1);  // the draws must outlive it
  const StepResult together = Execute(plan)[1];
  EXPECT_THAT(together.num_sampled(), ElementsAre(5));
  EXPECT_THAT(together.num_scored(), ElementsAre(5));
  ASSERT_EQ(together.sampled_size(), 5) << together.error().message();
  ASSERT_EQ(together.logprobs_size(), 5);
  std::set<int32_t> different;
  for (int choice = 0; choice < 5; ++choice) {
    StepPlan single = NewPlan();
    AddRow(single, 2 + choice, 0, {3, 1, 4}, {1}, true);
    AddHistory(single, sampling, 3, {});
    single.mutable_resets(0)->set_choice(choice);
    const StepResult result = Execute(single)[0];
    ASSERT_EQ(result.sampled_size(), 1) << result.error().message();
    EXPECT_EQ(result.sampled(0), together.sampled(choice));
    EXPECT_EQ(result.logprobs(0), together.logprobs(choice));
    different.insert(result.sampled(0));
  }
  EXPECT_GE(different.size(), 2u);
}

// Position p is scored by the row that computes p - 1, and chunks do not show.
TEST_F(EngineSamplingTest, PromptAndSamplesAreScored) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  const std::vector<int32_t> prompt = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3};
  cluster::v1::SamplingParams sampling;
  sampling.set_prompt_logprobs(1 + 2);
  sampling.set_logprobs(true);
  sampling.set_top_logprobs(1);
  StepPlan plan = NewPlan();
  AddRow(plan, 1, 0, prompt, {0}, true);
  AddHistory(plan, sampling, 10, prompt);
  AddRow(plan, 2, 0, {8}, {1}, true);
  const StepResult whole = Execute(plan)[0];
  ASSERT_FALSE(whole.has_error()) << whole.error().message();
  EXPECT_THAT(whole.num_scored(), ElementsAre(9 + 1, 0));
  EXPECT_THAT(whole.num_top(), ElementsAre(2, 2, 2, 2, 2, 2, 2, 2, 2, 1));
  ASSERT_EQ(whole.logprobs_size(), 10);
  ASSERT_EQ(whole.top_tokens_size(), 19);
  for (int i = 0; i < 9; ++i) {
    EXPECT_LE(whole.top_logprobs(2 * i + 1), whole.top_logprobs(2 * i));
    EXPECT_LE(whole.logprobs(i), whole.top_logprobs(2 * i));
    if (whole.top_tokens(2 * i) == prompt[i + 1]) {
      EXPECT_EQ(whole.logprobs(i), whole.top_logprobs(2 * i));
    }
  }
  // Greedy: the sample is the most likely one.
  EXPECT_EQ(whole.top_tokens(18), whole.sampled(0));
  EXPECT_EQ(whole.top_logprobs(18), whole.logprobs(9));

  std::vector<float> logprobs;
  std::vector<int32_t> top_tokens;
  uint32_t start = 0;
  for (const uint32_t count : {1u, 4u, 3u, 2u}) {
    StepPlan chunk = NewPlan();
    AddRow(chunk, 3, start, {prompt.begin() + start, prompt.begin() + start + count},
           start == 0 ? std::vector<uint32_t>{2} : std::vector<uint32_t>{}, start + count == 10);
    if (start == 0) AddHistory(chunk, sampling, 10, prompt);
    const StepResult result = Execute(chunk)[1];
    ASSERT_FALSE(result.has_error()) << result.error().message();
    EXPECT_THAT(result.num_scored(), ElementsAre(count));
    logprobs.insert(logprobs.end(), result.logprobs().begin(), result.logprobs().end());
    top_tokens.insert(top_tokens.end(), result.top_tokens().begin(), result.top_tokens().end());
    start += count;
  }
  EXPECT_THAT(logprobs, testing::ElementsAreArray(whole.logprobs()));
  EXPECT_THAT(top_tokens, testing::ElementsAreArray(whole.top_tokens()));

  StepPlan unscored = NewPlan();
  AddRow(unscored, 4, 0, prompt, {3}, true);
  const StepResult result = Execute(unscored)[0];
  EXPECT_EQ(result.num_scored_size(), 0);
  EXPECT_EQ(result.logprobs_size(), 0);
  EXPECT_EQ(result.num_top_size(), 0);
}

// min_tokens counts the output, also the part under a reset that nobody sends the tokens of.
TEST_F(EngineSamplingTest, MinTokensCountsWithoutAHistory) {
  ASSERT_NO_FATAL_FAILURE(Start(1));
  cluster::v1::SamplingParams sampling;
  sampling.set_min_tokens(4);
  for (int32_t token = 0; token < static_cast<int32_t>(kTinyVocab); ++token) {
    if (token != 5) sampling.add_min_tokens_banned(token);
  }
  const std::vector<int32_t> prompt = {3, 1, 4};
  StepPlan free = NewPlan();
  AddRow(free, 1, 0, {3, 1, 4, 5, 5, 5, 5}, {0}, true);
  const int32_t natural = Execute(free)[0].sampled(0);
  ASSERT_NE(natural, 5);

  StepPlan plan = NewPlan();
  AddRow(plan, 2, 0, prompt, {1}, true);
  AddHistory(plan, sampling, 3, {});
  EXPECT_THAT(Execute(plan)[0].sampled(), ElementsAre(5));
  // Two of the four are out when it is reset, one of them computed.
  plan = NewPlan();
  AddRow(plan, 2, 3, {5}, {}, true);
  EXPECT_THAT(Execute(plan)[0].sampled(), ElementsAre(5));
  plan = NewPlan();
  AddRow(plan, 2, 4, {5}, {1}, true);
  AddHistory(plan, sampling, 3, {});
  EXPECT_THAT(Execute(plan)[0].sampled(), ElementsAre(5));
  plan = NewPlan();
  AddRow(plan, 2, 5, {5}, {}, true);
  EXPECT_THAT(Execute(plan)[0].sampled(), ElementsAre(5));
  plan = NewPlan();
  AddRow(plan, 2, 6, {5}, {}, true);
  EXPECT_THAT(Execute(plan)[0].sampled(), ElementsAre(natural));
}

}  // namespace
}  // namespace tessera
