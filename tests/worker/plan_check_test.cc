// Plans from the network: what is refused and how it is said.

#include "worker/plan_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "tests/worker/step_plans.h"

namespace tessera {
namespace {

using cluster::v1::StepPlan;
using testing::HasSubstr;

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
  return {
      {"micro_batch", [](Plan& p) { p.set_micro_batch(1); }, kReserved, "micro_batch"},
      {"moves", [](Plan& p) { p.add_moves(); }, kReserved, "StepPlan.moves"},
      {"mask_pending", [](Plan& p) { p.add_mask_pending(false); }, kReserved, "mask_pending"},
      {"adapter", [](Plan& p) { p.add_adapter(0); }, kReserved, "adapter"},
      {"embeds", [](Plan& p) { p.add_embeds(""); }, kReserved, "embeds"},
      {"kv_shard", [](Plan& p) { p.add_kv_shard(0); }, kReserved, "kv_shard"},
      {"drafts", [](Plan& p) { p.add_drafts(0); }, kReserved, "drafts"},
      {"verify_drafts", [](Plan& p) { p.set_output(0, cluster::v1::OUTPUT_VERIFY_DRAFTS); },
       kReserved, "OUTPUT_VERIFY_DRAFTS"},
      {"pool", [](Plan& p) { p.set_output(0, cluster::v1::OUTPUT_POOL); }, kReserved,
       "OUTPUT_POOL"},
  };
}

std::vector<Refusal> SamplingRefusals() {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  using Plan = StepPlan;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const auto sampling = [](Plan& p) { return p.mutable_resets(0)->mutable_sampling(); };
  const auto bias = [=](Plan& p, int32_t token, float by) {
    (*sampling(p)->mutable_logit_bias())[token] = by;
  };
  return {
      {"min_p", [=](Plan& p) { sampling(p)->set_min_p(1); }, kInvalid, "min_p[0] = 1"},
      {"min_p_nan", [=](Plan& p) { sampling(p)->set_min_p(nan); }, kInvalid, "min_p[0]"},
      {"presence", [=](Plan& p) { sampling(p)->set_presence_penalty(infinity); }, kInvalid,
       "presence_penalty[0] = inf"},
      {"frequency", [=](Plan& p) { sampling(p)->set_frequency_penalty(nan); }, kInvalid,
       "frequency_penalty[0]"},
      {"repetition", [=](Plan& p) { sampling(p)->set_repetition_penalty(-1); }, kInvalid,
       "repetition_penalty[0] = -1"},
      {"bias_token", [=](Plan& p) { bias(p, 100, 1); }, kInvalid, "logit_bias[0] = token 100"},
      {"bias_value", [=](Plan& p) { bias(p, 1, infinity); }, kInvalid, "logit_bias[0] = token 1"},
      {"allowed", [=](Plan& p) { sampling(p)->add_allowed_token_ids(-1); }, kInvalid,
       "allowed_token_ids[0] = token -1"},
      {"banned", [=](Plan& p) { sampling(p)->add_banned_token_ids(100); }, kInvalid,
       "banned_token_ids[0] = token 100"},
      {"too_many_banned",
       [=](Plan& p) {
         for (int i = 0; i < 101; ++i) sampling(p)->add_banned_token_ids(1);
       },
       kInvalid, "banned_token_ids[0] = 101 tokens"},
      {"min_tokens_banned", [=](Plan& p) { sampling(p)->add_min_tokens_banned(100); }, kInvalid,
       "min_tokens_banned[0] = token 100"},
      {"min_tokens", [=](Plan& p) { sampling(p)->set_min_tokens(65); }, kInvalid,
       "min_tokens[0] = 65"},
      {"top_logprobs", [=](Plan& p) { sampling(p)->set_top_logprobs(21); }, kInvalid,
       "top_logprobs[0] = 21"},
      {"prompt_logprobs", [=](Plan& p) { sampling(p)->set_prompt_logprobs(22); }, kInvalid,
       "prompt_logprobs[0] = 22"},
      {"choice", [](Plan& p) { p.mutable_resets(0)->set_choice(128); }, kInvalid,
       "resets.choice[0] = 128"},
      {"too_many_choices", [](Plan& p) { p.set_num_choices(0, 129); }, kInvalid,
       "num_choices[0] = 129"},
      {"choices_of_another_choice",
       [](Plan& p) {
         p.mutable_resets(0)->set_choice(1);
         p.set_output(1, cluster::v1::OUTPUT_SAMPLE);
         p.set_num_choices(1, 2);
       },
       kInvalid, "num_choices[1] = 2, sequence 8 is choice 1"},
      {"no_history", [=](Plan& p) { sampling(p)->set_presence_penalty(1); }, kInvalid,
       "resets.history[0] = 0 tokens"},
      {"history_without_prompt",
       [=](Plan& p) {
         sampling(p)->set_prompt_logprobs(1);
         p.mutable_resets(0)->set_num_prompt_tokens(4);
         for (int32_t token : {21, 22, 23}) p.mutable_resets(0)->add_history(token);
       },
       kInvalid, "the prompt has 4"},
      {"history_too_long",
       [](Plan& p) {
         for (int i = 0; i < 65; ++i) p.mutable_resets(0)->add_history(1);
       },
       kInvalid, "resets.history[0] = 65 tokens"},
      {"history_of_other_tokens",
       [=](Plan& p) {
         sampling(p)->set_presence_penalty(1);
         for (int32_t token : {21, 22, 99}) p.mutable_resets(0)->add_history(token);
       },
       kInvalid, "tokens[3] = 23, of row 1; the history of sequence 8 has 99 at position 2"},
      {"history_with_a_gap",
       [=](Plan& p) {
         sampling(p)->set_presence_penalty(1);
         p.mutable_resets(0)->add_history(21);
         p.set_start_position(1, 4);
         p.set_num_new_blocks(1, 2);
         p.add_block_ids(8);
       },
       kInvalid, "start_position[1] = 4, the history of sequence 8 has 1"},
      {"samples_inside_its_history",
       [=](Plan& p) {
         sampling(p)->set_presence_penalty(1);
         for (int32_t token : {21, 22, 23, 24}) p.mutable_resets(0)->add_history(token);
         p.set_output(1, cluster::v1::OUTPUT_SAMPLE);
         p.set_num_choices(1, 1);
       },
       kInvalid, "output[1] = OUTPUT_SAMPLE, position 3 would be sampled"},
      {"too_many_logits",
       [=](Plan& p) {
         // Three prompt tokens scored, one sample, and a row more than rows_max = 4.
         sampling(p)->set_prompt_logprobs(1);
         p.mutable_resets(0)->set_num_prompt_tokens(4);
         for (int32_t token : {21, 22, 23, 24}) p.mutable_resets(0)->add_history(token);
         AddRow(p, 9, 0, {1}, {1}, cluster::v1::OUTPUT_SAMPLE);
         p.add_resets()->set_row(2);
       },
       kInvalid, "5 rows of logits"},
  };
}

std::vector<Refusal> CarryRefusals() {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  using Plan = StepPlan;
  return {
      {"no_source_step", [](Plan& p) { p.clear_source_step(); }, kInvalid, "source_step has 0"},
      {"no_source_row", [](Plan& p) { p.clear_source_row(); }, kInvalid, "source_row has 0"},
      {"source_of_nobody", [](Plan& p) { p.add_source_row(1); }, kInvalid, "source_row has 2"},
      {"token_given_too", [](Plan& p) { p.add_tokens(1); }, kInvalid, "tokens has 4"},
      {"two_tokens", [](Plan& p) { p.set_num_new_tokens(0, 2); }, kInvalid,
       "num_new_tokens[0] = 2, a row with TOKENS_LAST_SAMPLED computes 1"},
      {"older_step", [](Plan& p) { p.set_source_step(0, 7); }, kInvalid,
       "source_step[0] = 7, of row 0; must be the step before 9"},
      {"this_step", [](Plan& p) { p.set_source_step(0, 9); }, kInvalid, "source_step[0] = 9"},
      {"overflowing_step", [](Plan& p) { p.set_source_step(0, ~uint64_t{0}); }, kInvalid,
       "source_step[0]"},
      {"another_row", [](Plan& p) { p.set_source_row(0, 2); }, kInvalid,
       "source_row[0] = 2, of row 0; that row of step 8 did not sample"},
      {"an_older_draw",
       [](Plan& p) {
         p.set_step(10);
         p.set_source_step(0, 9);
       },
       kInvalid, "source_row[0] = 3, of row 0; that row of step 9"},
      {"another_sequence",
       [](Plan& p) {
         p.set_sequence(0, 8);
         p.set_sequence(1, 7);
         p.mutable_resets(0)->set_row(0);
         p.set_num_new_blocks(0, 2);
         p.add_block_ids(8);
         p.set_num_new_blocks(1, 0);
         p.clear_block_ids();
         p.add_block_ids(8);
         p.add_block_ids(7);
       },
       kInvalid, "single choice of sequence 8"},
      {"reset_elsewhere",
       [](Plan& p) {
         p.add_resets()->set_row(0);
         p.set_start_position(0, 4);
         p.set_num_new_blocks(0, 2);
         p.clear_block_ids();
         for (uint32_t block : {2, 3, 9}) p.add_block_ids(block);
       },
       kInvalid, "start_position[0] = 4, the token that sequence 7 sampled last has position 5"},
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

INSTANTIATE_TEST_SUITE_P(Sampling, RefusalTest, testing::ValuesIn(SamplingRefusals()),
                         [](const auto& info) { return info.param.name; });

class CarryRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(CarryRefusalTest, SaysWhichColumnAndWhy) {
  StepPlan plan = CarryingPlan();
  ASSERT_TRUE(CheckPlan(plan, Limits(), KnownDraws()).ok());
  GetParam().damage(plan);
  const absl::Status status = CheckPlan(plan, Limits(), KnownDraws());
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().text));
}

INSTANTIATE_TEST_SUITE_P(Damaged, CarryRefusalTest, testing::ValuesIn(CarryRefusals()),
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

}  // namespace
}  // namespace tessera
