// What an accepted plan becomes: flat arrays, and sequences brought up to date.

#include "worker/step_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/worker/step_plans.h"

namespace tessera {
namespace {

using cluster::v1::StepPlan;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(StepInputTest, FlattensRowsAndUpdatesSequences) {
  SequenceMap sequences = KnownSequences();
  StepPlan plan = GoodPlan();
  AddRow(plan, 6, 4, {31, 32}, {1, 0}, cluster::v1::OUTPUT_SAMPLE);
  AddReset(plan, 2);
  ASSERT_TRUE(CheckPlan(plan, Limits(), sequences).ok());
  StepInput input;
  ApplyPlan(plan, Limits(), sequences, input);
  EXPECT_THAT(input.tokens, ElementsAre(11, 21, 22, 23, 31, 32));
  EXPECT_THAT(input.positions, ElementsAre(5, 0, 1, 2, 4, 5));
  EXPECT_THAT(input.query_begin, ElementsAre(0, 1, 4, 6));
  EXPECT_THAT(input.kv_length, ElementsAre(6, 3, 6));
  EXPECT_EQ(input.block_tables[0].width, 2);
  EXPECT_THAT(input.block_tables[0].entries, ElementsAre(2, 3, 9, 0, 1, 0));
  EXPECT_THAT(input.output_token, ElementsAre(0, 5));
  EXPECT_THAT(input.num_draws, ElementsAre(1, 0, 1));
  ASSERT_EQ(input.sampling.size(), 2u);
  EXPECT_EQ(input.sampling[0].position, 6u);
  EXPECT_EQ(input.sampling[0].temperature, 0.0f);
  EXPECT_EQ(input.sampling[1].position, 6u);
  EXPECT_EQ(input.sampling[1].temperature, 0.5f);
  EXPECT_EQ(input.sampling[1].top_p, 0.9f);
  EXPECT_EQ(input.sampling[1].top_k, 7u);
  EXPECT_EQ(input.sampling[1].seed, 42u);
  EXPECT_EQ(sequences.at(7).num_computed, 6);
  EXPECT_EQ(sequences.at(8).num_computed, 3);
  EXPECT_THAT(sequences.at(6).block_tables[0], ElementsAre(1, 0));
}

TEST(StepInputTest, ResetReplacesWhatWasKnown) {
  SequenceMap sequences = KnownSequences();
  StepPlan plan;
  AddRow(plan, 7, 0, {1}, {8}, cluster::v1::OUTPUT_NONE);
  AddReset(plan, 0);
  ASSERT_TRUE(CheckPlan(plan, Limits(), sequences).ok());
  StepInput input;
  ApplyPlan(plan, Limits(), sequences, input);
  EXPECT_THAT(sequences.at(7).block_tables[0], ElementsAre(8));
  EXPECT_EQ(sequences.at(7).num_computed, 1);
  EXPECT_EQ(sequences.at(7).sampling.temperature, 0.5f);
}

TEST(StepInputTest, RowsOfLongSequencesAreRunsOfTheirOwn) {
  SequenceMap sequences = KnownSequences();
  StepPlan plan = GoodPlan();
  AddRow(plan, 6, 0, {31, 32}, {1}, cluster::v1::OUTPUT_SAMPLE);
  AddReset(plan, 2);
  plan.mutable_resets(0)->set_long_rope(true);
  plan.mutable_resets(1)->set_long_rope(true);
  ASSERT_TRUE(CheckPlan(plan, Limits(), sequences).ok());
  StepInput input;
  ApplyPlan(plan, Limits(), sequences, input);
  ASSERT_EQ(input.runs.size(), 2u);
  EXPECT_FALSE(input.runs[0].long_rope);
  EXPECT_EQ(input.runs[0].num_rows, 1);
  EXPECT_TRUE(input.runs[1].long_rope);
  EXPECT_EQ(input.runs[1].first_row, 1);
  EXPECT_EQ(input.runs[1].num_rows, 2);
  EXPECT_EQ(input.runs[1].first_token, 1);
  EXPECT_THAT(input.run_query_begin, ElementsAre(0, 1, 0, 3, 5));

  const auto ops = NewCpuOps();
  ASSERT_TRUE(ops.ok());
  auto arrays = StepArrays::Create(**ops, Limits());
  ASSERT_TRUE(arrays.ok());
  const GroupStep& step = arrays->Upload({}, input)[0];
  ASSERT_EQ(step.runs.size(), 2u);
  const StepView& rows = step.runs[1].rows;
  EXPECT_EQ(rows.num_tokens, 5);
  EXPECT_EQ(rows.positions.as<const int32_t>()[3], 0);
  EXPECT_EQ(rows.query_begin.as<const int32_t>()[1], 3);
  EXPECT_EQ(rows.kv_length.as<const int32_t>()[1], 2);
  EXPECT_EQ(rows.block_table.as<const int32_t>()[0], 9);

  // Until another reset it stays so.
  StepPlan next;
  AddRow(next, 8, 3, {24}, {}, cluster::v1::OUTPUT_SAMPLE);
  ApplyPlan(next, Limits(), sequences, input);
  ASSERT_EQ(input.runs.size(), 1u);
  EXPECT_TRUE(input.runs[0].long_rope);
}

TEST(StepInputTest, ARowCarriesWhatItsSequenceDrew) {
  for (const int32_t drawn : {55, Sampler::kNoToken}) {
    SequenceMap sequences = KnownDraws();
    sequences[7].last_draw.token = drawn;
    const StepPlan plan = CarryingPlan();
    ASSERT_TRUE(CheckPlan(plan, Limits(), sequences).ok());
    StepInput input;
    ApplyPlan(plan, Limits(), sequences, input);
    EXPECT_THAT(input.tokens, ElementsAre(std::max(drawn, 0), 21, 22, 23));
    EXPECT_THAT(input.positions, ElementsAre(5, 0, 1, 2));
    EXPECT_THAT(input.query_begin, ElementsAre(0, 1, 4));
    ASSERT_EQ(input.sampling.size(), 1u);
    EXPECT_EQ(input.sampling[0].position, 6u);

    // What this step draws is there for the next.
    KeepDraws(plan, input, {66}, sequences);
    EXPECT_EQ(sequences.at(7).last_draw.step, 9u);
    EXPECT_EQ(sequences.at(7).last_draw.row, 0u);
    EXPECT_EQ(sequences.at(7).last_draw.token, 66);
    EXPECT_EQ(sequences.at(8).last_draw.step, 0u);
  }
}

// A sequence whose table changes by a copy is reset in the plan that carries its token.
TEST(StepInputTest, AResetKeepsTheCarriedToken) {
  SequenceMap sequences = KnownDraws();
  StepPlan plan = CarryingPlan();
  plan.add_resets()->set_row(0);
  plan.mutable_resets(1)->mutable_sampling()->set_repetition_penalty(2);
  plan.mutable_resets(1)->set_num_prompt_tokens(2);
  for (int32_t token : {1, 2, 3, 4, 5}) plan.mutable_resets(1)->add_history(token);
  plan.set_num_new_blocks(0, 2);
  plan.clear_block_ids();
  for (uint32_t block : {2, 6, 9}) plan.add_block_ids(block);
  const absl::Status status = CheckPlan(plan, Limits(), sequences);
  ASSERT_TRUE(status.ok()) << status;
  StepInput input;
  ApplyPlan(plan, Limits(), sequences, input);
  EXPECT_EQ(input.tokens[0], 55);
  EXPECT_THAT(sequences.at(7).history, ElementsAre(1, 2, 3, 4, 5, 55));
  EXPECT_THAT(sequences.at(7).block_tables[0], ElementsAre(2, 6));
  // A token contradicting what a history says of its place cannot be carried.
  sequences = KnownDraws();
  plan.mutable_resets(1)->add_history(6);
  EXPECT_THAT(std::string(CheckPlan(plan, Limits(), sequences).message()),
              HasSubstr("start_position[0] = 5, the history of sequence 7 has 6"));
}

TEST(StepInputTest, ChoicesShareTheirLogits) {
  SequenceMap sequences = KnownSequences();
  StepPlan plan = GoodPlan();
  plan.set_output(1, cluster::v1::OUTPUT_SAMPLE);
  plan.set_num_choices(1, 3);
  plan.mutable_resets(0)->mutable_sampling()->add_banned_token_ids(3);
  ASSERT_TRUE(CheckPlan(plan, Limits(), sequences).ok());
  StepInput input;
  ApplyPlan(plan, Limits(), sequences, input);
  EXPECT_THAT(input.output_token, ElementsAre(0, 3));
  EXPECT_THAT(input.num_draws, ElementsAre(1, 3));
  ASSERT_EQ(input.sampling.size(), 4u);
  for (uint32_t choice = 0; choice < 3; ++choice) {
    const SampleRow& draw = input.sampling[1 + choice];
    EXPECT_EQ(draw.logits_row, 1);
    EXPECT_EQ(draw.choice, choice);
    EXPECT_EQ(draw.position, 3u);
    EXPECT_EQ(draw.seed, 42u);
    EXPECT_EQ(draw.rules, sequences.at(8).rules.get());
    EXPECT_NE(draw.rules, nullptr);
  }
  // Nobody may carry one of several.
  KeepDraws(plan, input, {1, 2, 3, 4}, sequences);
  EXPECT_EQ(sequences.at(7).last_draw.token, 1);
  EXPECT_EQ(sequences.at(8).last_draw.step, 0u);
}

// 6 prompt tokens in chunks of 2 and 4; positions 1 to 5 are scored, each once, and the last
// token is sampled after.
TEST(StepInputTest, PromptTokensAreScoredByTheRowBeforeThem) {
  SequenceMap sequences;
  StepPlan first;
  AddRow(first, 8, 0, {21, 22}, {9}, cluster::v1::OUTPUT_NONE);
  cluster::v1::SequenceReset* reset = AddReset(first, 0);
  reset->mutable_sampling()->set_prompt_logprobs(3);
  reset->set_num_prompt_tokens(6);
  for (int32_t token : {21, 22, 23, 24, 25, 26}) reset->add_history(token);
  ASSERT_TRUE(CheckPlan(first, Limits(), sequences).ok());
  StepInput input;
  ApplyPlan(first, Limits(), sequences, input);
  EXPECT_THAT(input.output_token, ElementsAre(0, 1));
  ASSERT_EQ(input.prompt_scores.size(), 2u);
  EXPECT_EQ(input.prompt_scores[0].token, 22);
  EXPECT_EQ(input.prompt_scores[1].token, 23);
  EXPECT_EQ(input.prompt_scores[1].logits_row, 1);
  EXPECT_EQ(input.prompt_scores[1].top, 2u);
  EXPECT_THAT(input.num_prompt_scores, ElementsAre(2));
  EXPECT_THAT(input.sampling, testing::IsEmpty());

  StepPlan second;
  AddRow(second, 8, 2, {23, 24, 25, 26}, {7}, cluster::v1::OUTPUT_SAMPLE);
  ASSERT_TRUE(CheckPlan(second, Limits(), sequences).ok());
  ApplyPlan(second, Limits(), sequences, input);
  EXPECT_THAT(input.output_token, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(input.num_prompt_scores, ElementsAre(3));
  EXPECT_EQ(input.prompt_scores[2].token, 26);
  EXPECT_EQ(input.prompt_scores[2].logits_row, 2);
  ASSERT_EQ(input.sampling.size(), 1u);
  EXPECT_EQ(input.sampling[0].logits_row, 3);

  // Behind the prompt nothing is scored any more.
  StepPlan third;
  AddRow(third, 8, 6, {31}, {}, cluster::v1::OUTPUT_SAMPLE);
  ASSERT_TRUE(CheckPlan(third, Limits(), sequences).ok());
  ApplyPlan(third, Limits(), sequences, input);
  EXPECT_THAT(input.num_prompt_scores, ElementsAre(0));
  EXPECT_THAT(input.output_token, ElementsAre(0));
}

TEST(StepInputTest, BlocksBehindAWindowMayBeMissing) {
  StepLimits limits = Limits();
  limits.windows = {6};
  SequenceMap sequences;
  StepPlan plan;
  // Blocks of 4; a query at 13 sees 8 to 13, so blocks 0 and 1 (positions 0 to 7) are not seen.
  AddRow(plan, 8, 13, {21}, {kNoBlock, kNoBlock, 5, 6}, cluster::v1::OUTPUT_SAMPLE);
  AddReset(plan, 0);
  const absl::Status status = CheckPlan(plan, limits, sequences);
  ASSERT_TRUE(status.ok()) << status;
  StepInput input;
  ApplyPlan(plan, limits, sequences, input);
  EXPECT_THAT(sequences.at(8).block_tables[0], ElementsAre(0, 0, 5, 6));

  EXPECT_THAT(std::string(CheckPlan(plan, Limits(), {}).message()),
              HasSubstr("a block may be missing only behind a window"));
  plan.set_start_position(0, 12);  // sees 7
  EXPECT_THAT(std::string(CheckPlan(plan, limits, {}).message()),
              HasSubstr("block_ids[1] = 4294967295, of row 0"));
  limits.windows = {0};
  plan.set_start_position(0, 13);
  EXPECT_FALSE(CheckPlan(plan, limits, {}).ok());
}

TEST(StepInputTest, ForgetsFinishedSequences) {
  SequenceMap sequences = KnownSequences();
  StepPlan plan;
  plan.add_finished_sequences(7);
  plan.add_finished_sequences(99);
  ForgetFinished(plan, sequences);
  EXPECT_TRUE(sequences.empty());
}

}  // namespace
}  // namespace tessera
