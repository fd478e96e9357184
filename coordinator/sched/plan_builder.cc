// Choosing rows and packing them; see plan_builder.h. In steady decode nothing is allocated per
// row: the columns get their length once and are filled in place.

#include "coordinator/sched/plan_builder.h"

#include <algorithm>

#include "base/check.h"

namespace tessera {
namespace {

using cluster::v1::SequenceReset;
using cluster::v1::StepPlan;

// Copies the tokens at [begin, begin + count) of prompt and output to `to`.
int32_t* CopyTokens(const Sequence& sequence, int64_t begin, int64_t count, int32_t* to) {
  const int64_t border = sequence.num_prompt_tokens;
  const int64_t end = begin + count;
  if (begin < border) {
    const int32_t* prompt = sequence.request->prompt.data();
    to = std::copy(prompt + begin, prompt + std::min(end, border), to);
  }
  if (end > border) {
    const int32_t* output = sequence.output.data();
    to = std::copy(output + std::max(begin - border, int64_t{0}), output + (end - border), to);
  }
  return to;
}

void AddReset(const Sequence& sequence, int row, StepPlan& plan) {
  const SamplingParams& from = sequence.request->sampling;
  SequenceReset& reset = *plan.add_resets();
  reset.set_row(static_cast<uint32_t>(row));
  reset.set_num_prompt_tokens(static_cast<uint32_t>(sequence.num_prompt_tokens));
  reset.set_request_id(sequence.request->public_id);
  cluster::v1::SamplingParams& to = *reset.mutable_sampling();
  to.set_temperature(from.temperature);
  to.set_top_k(from.top_k);
  to.set_top_p(from.top_p);
  to.set_seed(from.seed);
}

// Makes the tables hold the row's tokens and appends the block ids that the ranks do not know yet:
// the whole tables on the first row of a sequence, else what was added.
void AddBlocks(const PlannedRow& row, bool reset, BlockManager& blocks, uint32_t* num_new_blocks,
               StepPlan& plan) {
  Sequence& sequence = *row.sequence;
  const int64_t tokens = sequence.num_computed_tokens + row.num_tokens;
  if (tokens <= sequence.num_held_tokens && !reset) return;
  const size_t known = reset ? 0 : static_cast<size_t>(blocks.BlocksFor(sequence.num_held_tokens));
  blocks.Extend(tokens, sequence.tables);
  sequence.num_held_tokens = blocks.BlocksFor(tokens) * blocks.block_size();
  for (size_t kv_group = 0; kv_group < sequence.tables.size(); ++kv_group) {
    const std::vector<BlockId>& ids = sequence.tables[kv_group].ids;
    num_new_blocks[kv_group] = static_cast<uint32_t>(ids.size() - known);
    for (size_t i = known; i < ids.size(); ++i) plan.add_block_ids(ids[i]);
  }
}

void FillColumns(absl::Time now, GroupState& group, StepPlan& plan) {
  const int rows = static_cast<int>(group.planned.size());
  const int kv_groups = group.blocks->num_groups();
  int64_t num_tokens = 0;
  for (const PlannedRow& row : group.planned) num_tokens += row.num_tokens;

  plan.mutable_sequence()->Resize(rows, 0);
  plan.mutable_num_new_tokens()->Resize(rows, 0);
  plan.mutable_start_position()->Resize(rows, 0);
  plan.mutable_output()->Resize(rows, cluster::v1::OUTPUT_NONE);
  plan.mutable_num_choices()->Resize(rows, 0);
  plan.mutable_token_source()->Resize(rows, cluster::v1::TOKENS_EXPLICIT);
  plan.mutable_num_new_blocks()->Resize(rows * kv_groups, 0);
  plan.mutable_tokens()->Resize(static_cast<int>(num_tokens), 0);

  uint64_t* id = plan.mutable_sequence()->mutable_data();
  uint32_t* num_new_tokens = plan.mutable_num_new_tokens()->mutable_data();
  uint32_t* start_position = plan.mutable_start_position()->mutable_data();
  int* output = plan.mutable_output()->mutable_data();
  uint32_t* num_choices = plan.mutable_num_choices()->mutable_data();
  uint32_t* num_new_blocks = plan.mutable_num_new_blocks()->mutable_data();
  int32_t* token = plan.mutable_tokens()->mutable_data();
  for (int i = 0; i < rows; ++i) {
    const PlannedRow& row = group.planned[i];
    Sequence& sequence = *row.sequence;
    const bool reset = sequence.last_plan == 0;
    if (reset) AddReset(sequence, i, plan);
    AddBlocks(row, reset, *group.blocks, num_new_blocks + i * kv_groups, plan);
    id[i] = sequence.id;
    num_new_tokens[i] = static_cast<uint32_t>(row.num_tokens);
    start_position[i] = static_cast<uint32_t>(sequence.num_computed_tokens);
    if (row.samples) {
      output[i] = cluster::v1::OUTPUT_SAMPLE;
      num_choices[i] = 1;
    }
    token = CopyTokens(sequence, sequence.num_computed_tokens, row.num_tokens, token);
    sequence.last_plan = plan.step();
    if (sequence.first_scheduled == absl::InfiniteFuture()) sequence.first_scheduled = now;
  }
}

}  // namespace

std::vector<PlannedRow> ChooseRows(const std::vector<Sequence*>& running,
                                   const PlanLimits& limits) {
  TESSERA_CHECK(static_cast<int64_t>(running.size()) <= limits.rows_max &&
                limits.rows_max <= limits.tokens_max);
  std::vector<PlannedRow> rows;
  rows.reserve(running.size());
  for (Sequence* sequence : running) {
    if (sequence->num_owed_tokens() == 1) rows.push_back({sequence, 1, true});
  }
  int64_t budget = limits.tokens_max - static_cast<int64_t>(rows.size());
  if (rows.size() == running.size()) return rows;
  for (Sequence* sequence : running) {
    const int64_t owed = sequence->num_owed_tokens();
    if (owed == 1) continue;
    const int64_t chunk = std::min({owed, limits.chunk_max, budget});
    if (chunk == 0) break;
    rows.push_back({sequence, chunk, chunk == owed});
    budget -= chunk;
  }
  return rows;
}

StepPlan BuildPlan(const PlanLimits& limits, uint64_t term, absl::Time now, GroupState& group) {
  TESSERA_CHECK(group.ready && !group.in_flight) << "group " << group.id << " cannot take a plan";
  StepPlan plan;
  plan.set_term(term);
  plan.set_epoch(group.epoch);
  plan.set_group(group.id);
  plan.set_step(++group.last_step);
  group.planned = ChooseRows(group.running, limits);
  FillColumns(now, group, plan);
  plan.mutable_finished_sequences()->Add(group.finished_ids.begin(), group.finished_ids.end());
  group.finished_ids.clear();
  group.in_flight = true;
  group.last_plan_time = now;
  return plan;
}

}  // namespace tessera
