// Several choices of one prompt, and log probabilities.

#include <string>
#include <vector>

#include "tests/coordinator/sched/details_of.h"
#include "tests/coordinator/sched/scheduler_fixture.h"

namespace tessera::testing {
namespace {

class SchedulerChoicesTest : public SchedulerTest {
 protected:
  SchedulerChoicesTest() { options_.plans_in_flight_max = 2; }
  std::shared_ptr<Request> MakeChoices(size_t prompt, uint32_t max_tokens, uint32_t choices) {
    auto request = Make(prompt, max_tokens);
    request->sampling.num_choices = choices;
    return request;
  }
};

TEST_F(SchedulerChoicesTest, ThePromptIsComputedOnceAndItsBlocksAreShared) {
  Ready(0);
  const RequestId id = Add(MakeChoices(14, 6, 3));
  std::vector<StepPlan> plans = Schedule();
  ASSERT_EQ(plans.size(), 2u);
  EXPECT_EQ(plans[1].num_choices(0), 3u);
  Finish();
  Finish();
  plans = Schedule();
  ASSERT_GE(plans.size(), 1u);
  EXPECT_EQ(plans[0].sequence_size(), 3);
  EXPECT_EQ(plans[0].resets_size(), 3);
  EXPECT_EQ(plans[0].copies_size(), 2);  // the last one writes where it is
  RunToEnd();
  for (uint32_t choice = 0; choice < 3; ++choice) {
    const std::vector<int32_t>& got = tokens_of_[{id, choice}];
    EXPECT_EQ(got, Expected(id, choice).tokens) << "choice " << choice;
  }
  EXPECT_EQ(ranks_[0]->tokens_computed(), 14 + 3 * 5);
  EXPECT_EQ(ends_.at(id).output_tokens, 18u);
  int ended = 0;
  for (const RequestUpdate& update : updates_) ended += update.ended ? 1 : 0;
  EXPECT_EQ(ended, 3);
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_free[0], 100);
}

TEST_F(SchedulerChoicesTest, ChoicesEndAtDifferentTimesAndTheRequestWithTheLast) {
  Ready(0);
  auto request = MakeChoices(5, 20, 4);
  const std::vector<int32_t> second = ExpectedAnswer(*request, 100, 1).tokens;
  request->sampling.stop_token_ids = {second[0]};  // choice 1 ends with its first token
  const RequestId id = Add(request);
  RunToEnd();
  for (uint32_t choice = 0; choice < 4; ++choice) {
    const std::vector<int32_t>& got = tokens_of_[{id, choice}];
    EXPECT_EQ(got, Expected(id, choice).tokens) << "choice " << choice;
  }
  EXPECT_EQ((tokens_of_[{id, 1}].size()), 1u);
  EXPECT_EQ(ends_.at(id).reason, FinishReason::kStop);
}

TEST_F(SchedulerChoicesTest, ChoicesSurviveALostGroupBeforeAndAfterTheyPart) {
  for (int steps : {0, 1, 2, 4}) {
    SCOPED_TRACE(steps);
    scheduler_ = nullptr;
    ends_.clear();
    tokens_of_.clear();
    Ready(0);
    const RequestId id = Add(MakeChoices(14, 8, 3));
    for (int i = 0; i < steps; ++i) {
      Schedule();
      Finish();
    }
    Schedule();
    Lose(0, 1);
    Ready(0, 2);
    RunToEnd();
    for (uint32_t choice = 0; choice < 3; ++choice) {
      const std::vector<int32_t>& got = tokens_of_[{id, choice}];
      EXPECT_EQ(got, Expected(id, choice).tokens) << "choice " << choice;
    }
  }
}

TEST_F(SchedulerChoicesTest, ARowOfLogitsPerChoiceIsKeptFree) {
  options_.rows_max = 4;
  Ready(0);
  const RequestId first = Add(MakeChoices(5, 4, 3));
  const RequestId second = Add(MakeChoices(5, 4, 2));
  Schedule();
  EXPECT_EQ(scheduler().Stats().waiting, 1);
  RunToEnd();
  EXPECT_EQ(ends_.at(first).output_tokens, 12u);
  EXPECT_EQ(ends_.at(second).output_tokens, 8u);
}

TEST_F(SchedulerChoicesTest, CancelEndsAllChoices) {
  Ready(0);
  const RequestId id = Add(MakeChoices(5, 50, 3));
  for (int i = 0; i < 4; ++i) {
    Schedule();
    Finish();
  }
  Schedule();
  Apply(Cancel{.request = id});
  RunToEnd();
  while (ranks_[0]->in_flight()) Finish();
  EXPECT_EQ(ends_.at(id).reason, FinishReason::kCancelled);
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_free[0], 100);
}

TEST_F(SchedulerChoicesTest, LogprobsComeWithTheirTokens) {
  Ready(0);
  auto request = MakeChoices(5, 4, 2);
  request->sampling.logprobs = true;
  request->sampling.top_logprobs = 2;
  const RequestId id = Add(request);
  RunToEnd();
  size_t scored = 0;
  for (const RequestUpdate& update : updates_) {
    EXPECT_EQ(DetailsOf(update).logprobs.size(), update.tokens().size());
    for (const TokenLogprobs& token : DetailsOf(update).logprobs) EXPECT_EQ(token.top.size(), 2u);
    scored += DetailsOf(update).logprobs.size();
  }
  EXPECT_EQ(scored, 8u);
  EXPECT_EQ(ends_.at(id).output_tokens, 8u);
}

TEST_F(SchedulerChoicesTest, PromptLogprobsComeOnceEachAlsoAfterALoss) {
  for (int steps : {0, 1, 2, 3, 5}) {
    SCOPED_TRACE(steps);
    scheduler_ = nullptr;
    updates_.clear();
    Ready(0);
    Add(23, 3);  // the same prompt may be cached: it is computed all the same
    auto request = Make(23, 3);
    request->sampling.prompt_logprobs = 1;
    const RequestId id = Add(request);
    for (int i = 0; i < steps; ++i) {
      Schedule();
      Finish();
    }
    Schedule();
    Lose(0, 1);
    Ready(0, 2);
    RunToEnd();
    uint64_t state = 0;
    uint32_t next = 1;
    std::vector<float> expected;
    for (size_t i = 0; i + 1 < request->prompt.size(); ++i) {
      state = Extend(state, request->prompt[i], static_cast<int64_t>(i));
      expected.push_back(ScoreOf(state, request->prompt[i + 1]));
    }
    std::vector<float> got;
    bool has_token = false;
    for (const RequestUpdate& update : updates_) {
      if (update.request != id) continue;
      if (!DetailsOf(update).prompt_logprobs.empty()) {
        EXPECT_EQ(DetailsOf(update).first_prompt_index, next);
        EXPECT_FALSE(has_token) << "all of them come before the first token";
      }
      next += static_cast<uint32_t>(DetailsOf(update).prompt_logprobs.size());
      for (const TokenLogprobs& token : DetailsOf(update).prompt_logprobs)
        got.push_back(token.logprob);
      has_token = has_token || !update.tokens().empty();
    }
    EXPECT_EQ(got, expected);
  }
}

TEST_F(SchedulerChoicesTest, PenaltiesBringTheWholeHistory) {
  Ready(0);
  auto request = Make(5, 9);
  request->sampling.frequency_penalty = 0.5f;
  const RequestId id = Add(request);
  EXPECT_EQ(Schedule()[0].resets(0).history_size(), 5);
  Finish();
  Schedule();
  Finish();
  Lose(0, 1);
  Ready(0, 2);
  EXPECT_EQ(Schedule()[0].resets(0).history_size(), 7);
  RunToEnd();
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

}  // namespace
}  // namespace tessera::testing
