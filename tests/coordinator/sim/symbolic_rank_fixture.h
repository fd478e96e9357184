// A symbolic rank and plans written by hand.

#ifndef TESSERA_TESTS_COORDINATOR_SIM_SYMBOLIC_RANK_FIXTURE_H_
#define TESSERA_TESTS_COORDINATOR_SIM_SYMBOLIC_RANK_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/simulation/symbolic_rank.h"

namespace tessera::simulation {

namespace pb = cluster::v1;

inline constexpr int64_t kBlockSize = 2;  // tokens
inline constexpr uint32_t kGone = 0xffffffff;

// A row of a plan, as the columns have it.
struct RowSpec {
  uint64_t sequence = 1;
  int64_t start = 0;
  std::vector<int32_t> tokens;        // empty: the last sampled one
  std::vector<uint32_t> blocks = {};  // new ones, of KvGroup 0
  std::vector<uint32_t> window_blocks = {};
  bool reset = false;
  bool samples = true;
  uint32_t choices = 1;
  uint32_t source_row = 0;
  bool foreign = false;  // of another request, whose tokens nobody here knows
  bool long_rope = false;
};

class SymbolicRankTest : public ::testing::Test {
 protected:
  SymbolicRankTest() {
    request_.public_id = "r";
    request_.prompt = {5, 6, 7};
    request_.sampling.seed = 99 << 8;
    request_.sampling.max_tokens = 100;
  }

  void Make(int64_t window = 0, int64_t rope_switch = 0) {
    pb::Assign assign;
    assign.set_epoch(1);
    assign.set_block_size(kBlockSize);
    assign.set_rows_max(4);
    assign.set_tokens_max(8);
    assign.set_context_max(32);
    kv_groups_.assign(1, KvGroup());
    assign.add_num_blocks(8);
    if (window > 0) {
      kv_groups_.push_back(KvGroup());
      kv_groups_.back().kind = KvGroup::Kind::kWindow;
      kv_groups_.back().window = window;
      assign.add_num_blocks(8);
    }
    step_ = 0;
    violations_ = Violations();
    SchedulerModel model;
    model.kv_groups = kv_groups_;
    model.rope_switch = rope_switch;
    rank_ = std::make_unique<SymbolicRank>(assign, model, true_token_, violations_);
  }

  pb::StepPlan PlanOf(const std::vector<RowSpec>& rows) {
    pb::StepPlan plan;
    plan.set_step(++step_);
    for (const RowSpec& row : rows) {
      plan.add_sequence(row.sequence);
      plan.add_start_position(static_cast<uint32_t>(row.start));
      plan.add_num_new_tokens(row.tokens.empty() ? 1 : static_cast<uint32_t>(row.tokens.size()));
      plan.add_output(row.samples ? pb::OUTPUT_SAMPLE : pb::OUTPUT_NONE);
      plan.add_num_choices(row.samples ? row.choices : 0);
      plan.add_token_source(row.tokens.empty() ? pb::TOKENS_LAST_SAMPLED : pb::TOKENS_EXPLICIT);
      plan.mutable_tokens()->Add(row.tokens.begin(), row.tokens.end());
      if (row.tokens.empty()) {
        plan.add_source_step(step_ - 1);
        plan.add_source_row(row.source_row);
      }
      plan.add_num_new_blocks(static_cast<uint32_t>(row.blocks.size()));
      plan.mutable_block_ids()->Add(row.blocks.begin(), row.blocks.end());
      if (kv_groups_.size() > 1) {
        plan.add_num_new_blocks(static_cast<uint32_t>(row.window_blocks.size()));
        plan.mutable_block_ids()->Add(row.window_blocks.begin(), row.window_blocks.end());
      }
      if (!row.reset) continue;
      pb::SequenceReset& reset = *plan.add_resets();
      reset.set_row(static_cast<uint32_t>(plan.sequence_size() - 1));
      reset.set_request_id(row.foreign ? "foreign" : request_.public_id);
      reset.set_long_rope(row.long_rope);
      reset.set_num_prompt_tokens(static_cast<uint32_t>(request_.prompt.size()));
      pb::SamplingParams& sampling = *reset.mutable_sampling();
      sampling.set_temperature(request_.sampling.temperature);
      sampling.set_top_p(request_.sampling.top_p);
      sampling.set_seed(request_.sampling.seed);
      sampling.set_presence_penalty(request_.sampling.presence_penalty);
      sampling.set_prompt_logprobs(request_.sampling.prompt_logprobs);
    }
    return plan;
  }
  // The tokens that the step samples.
  std::vector<int32_t> Run(const pb::StepPlan& plan) {
    const pb::StepResult result = rank_->Execute(plan);
    return {result.sampled().begin(), result.sampled().end()};
  }
  std::vector<int32_t> Run(const std::vector<RowSpec>& rows) { return Run(PlanOf(rows)); }

  // The undisturbed run's token `index` of a choice.
  int32_t Truth(size_t index, uint32_t choice = 0) const {
    const DrawParams params = ParamsOf(request_);
    uint64_t state = 0;
    int64_t position = 0;
    for (int32_t token : request_.prompt) state = Extend(state, token, position++);
    while (true) {
      const int32_t token = DrawToken(params, state, state, position, choice);
      if (index-- == 0) return token;
      state = Extend(state, token, position++);
    }
  }
  std::string Reported() const {
    std::string all;
    for (const Violation& violation : violations_.all()) all += violation.text + "\n";
    return all;
  }
  // A rank that has computed the prompt in blocks 0 and 1 and sampled the first token.
  void Prefill() {
    ASSERT_THAT(Run({{.tokens = request_.prompt, .blocks = {0, 1}, .reset = true}}),
                ::testing::ElementsAre(Truth(0)));
    ASSERT_EQ(Reported(), "");
  }

  Request request_;
  TrueToken true_token_ = [this](const std::string& id, uint32_t choice, int64_t position) {
    if (id != request_.public_id) return int32_t{-1};
    const int64_t prompt = static_cast<int64_t>(request_.prompt.size());
    return position < prompt ? request_.prompt[static_cast<size_t>(position)]
                             : Truth(static_cast<size_t>(position - prompt), choice);
  };
  std::vector<KvGroup> kv_groups_;
  Violations violations_;
  uint64_t step_ = 0;
  std::unique_ptr<SymbolicRank> rank_;
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_COORDINATOR_SIM_SYMBOLIC_RANK_FIXTURE_H_
