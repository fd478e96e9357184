// Plans from the network: what is refused and how it is said, that a refused plan changes nothing,
// and what an accepted one becomes.

#include "worker/step_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "worker/plan_check.h"

namespace tessera {
namespace {

using cluster::v1::StepPlan;
using testing::ElementsAre;
using testing::HasSubstr;

StepLimits Limits() {
  return {.rows_max = 4,
          .tokens_max = 8,
          .context_max = 64,
          .block_size = 4,
          .vocab_size = 100,
          .num_blocks = {10}};
}

void AddRow(StepPlan& plan, uint64_t sequence, uint32_t start, const std::vector<int32_t>& tokens,
            const std::vector<uint32_t>& blocks, cluster::v1::OutputKind output) {
  plan.add_sequence(sequence);
  plan.add_num_new_tokens(tokens.size());
  plan.add_start_position(start);
  plan.add_output(output);
  plan.add_num_choices(output == cluster::v1::OUTPUT_SAMPLE ? 1 : 0);
  plan.add_token_source(cluster::v1::TOKENS_EXPLICIT);
  for (int32_t token : tokens) plan.add_tokens(token);
  plan.add_num_new_blocks(blocks.size());
  for (uint32_t block : blocks) plan.add_block_ids(block);
}

cluster::v1::SequenceReset* AddReset(StepPlan& plan, uint32_t row) {
  cluster::v1::SequenceReset* reset = plan.add_resets();
  reset->set_row(row);
  reset->mutable_sampling()->set_temperature(0.5f);
  reset->mutable_sampling()->set_top_p(0.9f);
  reset->mutable_sampling()->set_top_k(7);
  reset->mutable_sampling()->set_seed(42);
  return reset;
}

// Sequence 7 is known with 5 computed tokens in blocks 2, 3; sequence 8 is new with 3 tokens.
SequenceMap KnownSequences() {
  SequenceMap sequences;
  sequences[7] = {.block_tables = {{2, 3}}, .num_computed = 5, .sampling = {}};
  return sequences;
}

StepPlan GoodPlan() {
  StepPlan plan;
  AddRow(plan, 7, 5, {11}, {}, cluster::v1::OUTPUT_SAMPLE);
  AddRow(plan, 8, 0, {21, 22, 23}, {9}, cluster::v1::OUTPUT_NONE);
  AddReset(plan, 1);
  return plan;
}

TEST(CheckPlanTest, AcceptsAGoodPlanAndAnEmptyOne) {
  const SequenceMap sequences = KnownSequences();
  EXPECT_TRUE(CheckPlan(GoodPlan(), Limits(), sequences).ok());
  EXPECT_TRUE(CheckPlan(StepPlan(), Limits(), sequences).ok());
}

struct Refusal {
  const char* name;
  std::function<void(StepPlan&)> damage;
  absl::StatusCode code;
  const char* text;
};

std::vector<Refusal> Refusals() {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  using Plan = StepPlan;
  const auto sampling = [](Plan& p) { return p.mutable_resets(0)->mutable_sampling(); };
  return {
      {"short_column", [](Plan& p) { p.mutable_start_position()->RemoveLast(); }, kInvalid,
       "StepPlan.start_position has 1"},
      {"long_column", [](Plan& p) { p.add_num_new_tokens(1); }, kInvalid, "num_new_tokens has 3"},
      {"output_column", [](Plan& p) { p.mutable_output()->RemoveLast(); }, kInvalid,
       "output has 1"},
      {"choices_column", [](Plan& p) { p.add_num_choices(1); }, kInvalid, "num_choices has 3"},
      {"source_column", [](Plan& p) { p.clear_token_source(); }, kInvalid, "token_source has 0"},
      {"missing_token", [](Plan& p) { p.mutable_tokens()->RemoveLast(); }, kInvalid,
       "tokens has 3"},
      {"extra_token", [](Plan& p) { p.add_tokens(1); }, kInvalid, "tokens has 5"},
      {"token_sum_overflows",
       [](Plan& p) {
         p.set_num_new_tokens(0, 0xffffffffu);
         p.set_num_new_tokens(1, 5);
       },
       kInvalid, "tokens has 4"},
      {"missing_block", [](Plan& p) { p.clear_block_ids(); }, kInvalid, "block_ids has 0"},
      {"block_counts", [](Plan& p) { p.add_num_new_blocks(0); }, kInvalid, "num_new_blocks has 3"},
      {"too_many_rows",
       [](Plan& p) {
         for (uint64_t i = 0; i < 3; ++i) AddRow(p, 100 + i, 0, {1}, {0}, cluster::v1::OUTPUT_NONE);
       },
       kInvalid, "rows_max is 4"},
      {"too_many_tokens",
       [](Plan& p) {
         AddRow(p, 9, 0, {1, 2, 3, 4, 5}, {1, 2}, cluster::v1::OUTPUT_NONE);
       },
       kInvalid, "tokens_max is 8"},
      {"no_tokens",
       [](Plan& p) {
         p.set_num_new_tokens(0, 0);
         p.mutable_tokens()->RemoveLast();
       },
       kInvalid, "num_new_tokens[0] = 0"},
      {"wrong_position", [](Plan& p) { p.set_start_position(0, 4); }, kInvalid,
       "start_position[0] = 4, sequence 7 has 5"},
      {"beyond_context", [](Plan& p) { p.set_start_position(1, 62); }, kInvalid,
       "start_position[1] = 62, with 3 new tokens exceeds context_max 64"},
      {"position_overflows", [](Plan& p) { p.set_start_position(1, 0xffffffffu); }, kInvalid,
       "start_position[1]"},
      {"duplicate_sequence", [](Plan& p) { p.set_sequence(1, 7); }, kInvalid, "sequence[1] = 7"},
      {"unknown_sequence", [](Plan& p) { p.clear_resets(); }, kInvalid, "sequence[1] = 8, unknown"},
      {"token_too_large", [](Plan& p) { p.set_tokens(2, 100); }, kInvalid, "tokens[2] = 100"},
      {"token_negative", [](Plan& p) { p.set_tokens(0, -1); }, kInvalid, "tokens[0] = -1"},
      {"block_outside_pool", [](Plan& p) { p.set_block_ids(0, 10); }, kInvalid,
       "block_ids[0] = 10, of row 1; KvGroup 0 has 10 blocks"},
      {"too_few_blocks",
       [](Plan& p) {
         p.set_num_new_blocks(1, 0);
         p.clear_block_ids();
       },
       kInvalid, "num_new_blocks[1] = 0"},
      {"table_beyond_context",
       [](Plan& p) {
         p.set_num_new_blocks(1, 17);
         for (int i = 0; i < 16; ++i) p.add_block_ids(1);
       },
       kInvalid, "num_new_blocks[1] = 17"},
      {"unknown_output", [](Plan& p) { p.set_output(0, static_cast<cluster::v1::OutputKind>(9)); },
       kInvalid, "output[0] = 9"},
      {"unknown_source",
       [](Plan& p) { p.set_token_source(0, static_cast<cluster::v1::TokenSource>(9)); }, kInvalid,
       "token_source[0] = 9"},
      {"no_choice", [](Plan& p) { p.set_num_choices(0, 0); }, kInvalid, "num_choices[0] = 0"},
      {"reset_of_no_row", [](Plan& p) { p.mutable_resets(0)->set_row(2); }, kInvalid,
       "resets.row[0] = 2"},
      {"two_resets", [](Plan& p) { AddReset(p, 1); }, kInvalid, "resets.row[1] = 1"},
      {"temperature_negative", [=](Plan& p) { sampling(p)->set_temperature(-1); }, kInvalid,
       "temperature[0] = -1"},
      {"temperature_nan",
       [=](Plan& p) { sampling(p)->set_temperature(std::numeric_limits<float>::quiet_NaN()); },
       kInvalid, "temperature[0]"},
      {"top_p_zero", [=](Plan& p) { sampling(p)->set_top_p(0); }, kInvalid, "top_p[0] = 0"},
      {"top_p_large", [=](Plan& p) { sampling(p)->set_top_p(1.5f); }, kInvalid, "top_p[0] = 1.5"},
      {"top_p_nan",
       [=](Plan& p) { sampling(p)->set_top_p(std::numeric_limits<float>::quiet_NaN()); }, kInvalid,
       "top_p[0]"},
      {"prompt_too_long", [](Plan& p) { p.mutable_resets(0)->set_num_prompt_tokens(65); }, kInvalid,
       "num_prompt_tokens[0] = 65"},
      {"history_token", [](Plan& p) { p.mutable_resets(0)->add_history(100); }, kInvalid,
       "resets.history[0] = token 100"},
      {"copy_group", [](Plan& p) { p.add_copies()->set_kv_group(1); }, kInvalid,
       "copies.kv_group[0] = 1"},
      {"copy_block", [](Plan& p) { p.add_copies()->set_to_block(10); }, kInvalid,
       "copies[0] = 0 -> 10"},
      {"too_many_copies",
       [](Plan& p) {
         for (int i = 0; i < 11; ++i) p.add_copies();
       },
       kInvalid, "copies has 11"},
  };
}

std::vector<Refusal> ReservedFields() {
  constexpr auto kReserved = absl::StatusCode::kUnimplemented;
  using Plan = StepPlan;
  const auto sampling = [](Plan& p) { return p.mutable_resets(0)->mutable_sampling(); };
  return {
      {"micro_batch", [](Plan& p) { p.set_micro_batch(1); }, kReserved, "micro_batch"},
      {"moves", [](Plan& p) { p.add_moves(); }, kReserved, "StepPlan.moves"},
      {"source_step", [](Plan& p) { p.add_source_step(1); }, kReserved, "source_step"},
      {"source_row", [](Plan& p) { p.add_source_row(1); }, kReserved, "source_row"},
      {"mask_pending", [](Plan& p) { p.add_mask_pending(false); }, kReserved, "mask_pending"},
      {"adapter", [](Plan& p) { p.add_adapter(0); }, kReserved, "adapter"},
      {"embeds", [](Plan& p) { p.add_embeds(""); }, kReserved, "embeds"},
      {"kv_shard", [](Plan& p) { p.add_kv_shard(0); }, kReserved, "kv_shard"},
      {"drafts", [](Plan& p) { p.add_drafts(0); }, kReserved, "drafts"},
      {"last_sampled", [](Plan& p) { p.set_token_source(0, cluster::v1::TOKENS_LAST_SAMPLED); },
       kReserved, "TOKENS_LAST_SAMPLED"},
      {"verify_drafts", [](Plan& p) { p.set_output(0, cluster::v1::OUTPUT_VERIFY_DRAFTS); },
       kReserved, "OUTPUT_VERIFY_DRAFTS"},
      {"pool", [](Plan& p) { p.set_output(0, cluster::v1::OUTPUT_POOL); }, kReserved,
       "OUTPUT_POOL"},
      {"choices", [](Plan& p) { p.set_num_choices(0, 2); }, kReserved, "num_choices > 1"},
      {"min_p", [=](Plan& p) { sampling(p)->set_min_p(0.1f); }, kReserved, "min_p"},
      {"presence", [=](Plan& p) { sampling(p)->set_presence_penalty(1); }, kReserved,
       "presence_penalty"},
      {"frequency", [=](Plan& p) { sampling(p)->set_frequency_penalty(1); }, kReserved,
       "frequency_penalty"},
      {"repetition", [=](Plan& p) { sampling(p)->set_repetition_penalty(1.1f); }, kReserved,
       "repetition_penalty"},
      {"bias", [=](Plan& p) { (*sampling(p)->mutable_logit_bias())[1] = 1; }, kReserved,
       "logit_bias"},
      {"allowed", [=](Plan& p) { sampling(p)->add_allowed_token_ids(1); }, kReserved,
       "allowed_token_ids"},
      {"banned", [=](Plan& p) { sampling(p)->add_banned_token_ids(1); }, kReserved,
       "banned_token_ids"},
      {"min_tokens", [=](Plan& p) { sampling(p)->set_min_tokens(1); }, kReserved, "min_tokens"},
      {"top_logprobs", [=](Plan& p) { sampling(p)->set_top_logprobs(1); }, kReserved,
       "top_logprobs"},
      {"logprobs", [=](Plan& p) { sampling(p)->set_logprobs(true); }, kReserved, "logprobs"},
  };
}

class RefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(RefusalTest, SaysWhichColumnAndWhy) {
  StepPlan plan = GoodPlan();
  GetParam().damage(plan);
  const absl::Status status = CheckPlan(plan, Limits(), KnownSequences());
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().text));
}

INSTANTIATE_TEST_SUITE_P(Damaged, RefusalTest, testing::ValuesIn(Refusals()),
                         [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(Reserved, RefusalTest, testing::ValuesIn(ReservedFields()),
                         [](const auto& info) { return info.param.name; });

TEST(CheckPlanTest, RefusesMoreSequencesThanItKeeps) {
  SequenceMap sequences = KnownSequences();
  for (uint64_t i = 0; sequences.size() < kSequencesMax; ++i) sequences.try_emplace(1000 + i);
  const absl::Status status = CheckPlan(GoodPlan(), Limits(), sequences);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TEST(CheckPlanTest, GreedyRowNeedsNoTopP) {
  StepPlan plan = GoodPlan();
  plan.mutable_resets(0)->mutable_sampling()->Clear();
  EXPECT_TRUE(CheckPlan(plan, Limits(), KnownSequences()).ok());
}

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
  EXPECT_THAT(input.output_row, ElementsAre(0, 2));
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
