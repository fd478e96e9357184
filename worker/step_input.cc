// Two passes over the rows: first the sequences learn what the plan says, then the arrays are
// written with the widths that are known by then. Called by the engine.

#include "worker/step_input.h"

#include <algorithm>

#include "base/status.h"

namespace tessera {
namespace {

using cluster::v1::SequenceReset;
using cluster::v1::StepPlan;

void ApplyResets(const StepPlan& plan, const StepLimits& limits, SequenceMap& sequences) {
  for (const SequenceReset& reset : plan.resets()) {
    const int row = static_cast<int>(reset.row());
    SequenceState& state = sequences[plan.sequence(row)];
    state.block_tables.resize(limits.num_blocks.size());
    for (std::vector<int32_t>& table : state.block_tables) table.clear();
    state.num_computed = plan.start_position(row);
    state.sampling = {.temperature = reset.sampling().temperature(),
                      .top_k = reset.sampling().top_k(),
                      .top_p = reset.sampling().top_p(),
                      .seed = reset.sampling().seed()};
  }
}

// Appends the row's new blocks, which begin at block_ids[next_block]; returns where the next row's
// begin.
int AppendBlocks(const StepPlan& plan, int row, int next_block, SequenceState& state) {
  const int groups = static_cast<int>(state.block_tables.size());
  for (int group = 0; group < groups; ++group) {
    const uint32_t count = plan.num_new_blocks(row * groups + group);
    for (uint32_t i = 0; i < count; ++i) {
      state.block_tables[group].push_back(static_cast<int32_t>(plan.block_ids(next_block++)));
    }
  }
  return next_block;
}

void FillBlockTable(const std::vector<const SequenceState*>& rows, size_t group,
                    StepInput::BlockTable& table) {
  table.width = 0;
  for (const SequenceState* row : rows) {
    table.width = std::max(table.width, static_cast<int64_t>(row->block_tables[group].size()));
  }
  table.entries.assign(rows.size() * table.width, 0);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::vector<int32_t>& blocks = rows[i]->block_tables[group];
    std::copy(blocks.begin(), blocks.end(), table.entries.begin() + i * table.width);
  }
}

// An int32 array on the device for at most `entries` entries.
absl::StatusOr<Buffer> NewArray(Ops& ops, int64_t entries) {
  return ops.Allocate(entries * sizeof(int32_t));
}

TensorView CopyArray(Ops& ops, const ExecContext& ctx, const Buffer& buffer,
                     const std::vector<int32_t>& from) {
  const TensorView view = buffer.View(DType::kInt32, {static_cast<int64_t>(from.size())});
  if (!from.empty()) ops.CopyToDevice(ctx, view.data, from.data(), view.bytes());
  return view;
}

}  // namespace

void ApplyPlan(const StepPlan& plan, const StepLimits& limits, SequenceMap& sequences,
               StepInput& input) {
  ApplyResets(plan, limits, sequences);
  input.tokens.assign(plan.tokens().begin(), plan.tokens().end());
  input.positions.clear();
  input.query_begin.assign(1, 0);
  input.kv_length.clear();
  input.output_token.clear();
  input.output_row.clear();
  input.sampling.clear();

  // Rows are looked up only after every reset has inserted its sequence, so the pointers stay
  // valid.
  std::vector<const SequenceState*> rows;
  rows.reserve(plan.sequence_size());
  int next_block = 0;
  for (int row = 0; row < plan.sequence_size(); ++row) {
    SequenceState& state = sequences.find(plan.sequence(row))->second;
    rows.push_back(&state);
    next_block = AppendBlocks(plan, row, next_block, state);
    const int32_t new_tokens = static_cast<int32_t>(plan.num_new_tokens(row));
    const int32_t start = static_cast<int32_t>(plan.start_position(row));
    for (int32_t i = 0; i < new_tokens; ++i) input.positions.push_back(start + i);
    const int32_t end = input.query_begin.back() + new_tokens;
    input.query_begin.push_back(end);
    state.num_computed = start + new_tokens;
    input.kv_length.push_back(start + new_tokens);
    if (plan.output(row) != cluster::v1::OUTPUT_SAMPLE) continue;
    input.output_token.push_back(end - 1);
    input.output_row.push_back(row);
    input.sampling.push_back(state.sampling);
    input.sampling.back().position = static_cast<uint32_t>(state.num_computed);
  }
  input.block_tables.resize(limits.num_blocks.size());
  for (size_t group = 0; group < input.block_tables.size(); ++group) {
    FillBlockTable(rows, group, input.block_tables[group]);
  }
}

void ForgetFinished(const StepPlan& plan, SequenceMap& sequences) {
  for (uint64_t id : plan.finished_sequences()) sequences.erase(id);
}

absl::StatusOr<StepArrays> StepArrays::Create(Ops& ops, const StepLimits& limits) {
  StepArrays arrays(ops);
  TESSERA_ASSIGN_OR_RETURN(arrays.tokens_, NewArray(ops, limits.tokens_max));
  TESSERA_ASSIGN_OR_RETURN(arrays.positions_, NewArray(ops, limits.tokens_max));
  TESSERA_ASSIGN_OR_RETURN(arrays.query_begin_, NewArray(ops, limits.rows_max + 1));
  TESSERA_ASSIGN_OR_RETURN(arrays.kv_length_, NewArray(ops, limits.rows_max));
  TESSERA_ASSIGN_OR_RETURN(arrays.output_token_, NewArray(ops, limits.rows_max));
  const int64_t table = limits.rows_max * BlocksFor(limits.context_max, limits.block_size);
  for (size_t group = 0; group < limits.num_blocks.size(); ++group) {
    TESSERA_ASSIGN_OR_RETURN(Buffer buffer, NewArray(ops, table));
    arrays.block_tables_.push_back(std::move(buffer));
  }
  arrays.views_.resize(limits.num_blocks.size());
  return arrays;
}

const std::vector<StepView>& StepArrays::Upload(const ExecContext& ctx, const StepInput& input) {
  StepView view;
  view.num_rows = input.num_rows();
  view.num_tokens = input.num_tokens();
  view.tokens = CopyArray(*ops_, ctx, tokens_, input.tokens);
  view.positions = CopyArray(*ops_, ctx, positions_, input.positions);
  view.query_begin = CopyArray(*ops_, ctx, query_begin_, input.query_begin);
  view.kv_length = CopyArray(*ops_, ctx, kv_length_, input.kv_length);
  view.output_token = CopyArray(*ops_, ctx, output_token_, input.output_token);
  for (size_t group = 0; group < views_.size(); ++group) {
    const StepInput::BlockTable& table = input.block_tables[group];
    CopyArray(*ops_, ctx, block_tables_[group], table.entries);
    view.block_table = block_tables_[group].View(DType::kInt32, {view.num_rows, table.width});
    views_[group] = view;
  }
  return views_;
}

uint64_t StepArrays::bytes() const {
  uint64_t bytes = tokens_.bytes() + positions_.bytes() + query_begin_.bytes() +
                   kv_length_.bytes() + output_token_.bytes();
  for (const Buffer& table : block_tables_) bytes += table.bytes();
  return bytes;
}

}  // namespace tessera
