// Two passes over the rows: first the sequences learn what the plan says, then the arrays are
// written with the widths that are known by then. Called by the engine.

#include "worker/step_input.h"

#include <algorithm>
#include <memory>

#include "base/status.h"

namespace tessera {
namespace {

using cluster::v1::SamplingParams;
using cluster::v1::SequenceReset;
using cluster::v1::StepPlan;

TokenRuleParams RuleParamsOf(const SamplingParams& params) {
  TokenRuleParams rules;
  // The wire's map has no order; the rules must not depend on it.
  rules.logit_bias.assign(params.logit_bias().begin(), params.logit_bias().end());
  std::sort(rules.logit_bias.begin(), rules.logit_bias.end());
  rules.allowed.assign(params.allowed_token_ids().begin(), params.allowed_token_ids().end());
  rules.banned.assign(params.banned_token_ids().begin(), params.banned_token_ids().end());
  rules.min_tokens = params.min_tokens();
  rules.min_tokens_banned.assign(params.min_tokens_banned().begin(),
                                 params.min_tokens_banned().end());
  rules.repetition_penalty = params.repetition_penalty();
  rules.frequency_penalty = params.frequency_penalty();
  rules.presence_penalty = params.presence_penalty();
  return rules;
}

// The sequence's next token, of position state.num_known.
void Learn(SequenceState& state, int32_t token, bool reads_tokens) {
  const bool in_prompt = state.num_known < state.num_prompt_tokens;
  ++state.num_known;
  if (reads_tokens) state.history.push_back(token);
  if (state.rules == nullptr) return;
  if (in_prompt) {
    state.rules->AddPrompt(token);
  } else {
    state.rules->AddOutput(token);
  }
}

void ApplyReset(const SequenceReset& reset, int64_t start, SequenceState& state) {
  const SamplingParams& params = reset.sampling();
  for (std::vector<int32_t>& table : state.block_tables) table.clear();
  state.num_computed = start;
  state.num_prompt_tokens = reset.num_prompt_tokens();
  state.long_rope = reset.long_rope();
  state.sampling = {.temperature = params.temperature(),
                    .top_k = params.top_k(),
                    .top_p = params.top_p(),
                    .min_p = params.min_p(),
                    .seed = params.seed(),
                    .choice = reset.choice()};
  state.sample_scores = params.logprobs() ? 1 + params.top_logprobs() : 0;
  state.prompt_scores = params.prompt_logprobs();
  const TokenRuleParams rules = RuleParamsOf(params);
  state.rules = TokenRules::Any(rules) ? std::make_unique<TokenRules>(rules) : nullptr;
  state.num_known = 0;
  state.history.clear();
  if (ReadsTokens(params)) {
    for (int32_t token : reset.history()) Learn(state, token, true);
  } else {
    // Nobody reads these tokens, so nobody sent them; min_tokens counts those of the output.
    while (state.num_known < start) Learn(state, 0, false);
  }
}

void ApplyResets(const StepPlan& plan, const StepLimits& limits, SequenceMap& sequences) {
  for (const SequenceReset& reset : plan.resets()) {
    const int row = static_cast<int>(reset.row());
    SequenceState& state = sequences[plan.sequence(row)];
    state.block_tables.resize(limits.num_blocks.size());
    ApplyReset(reset, plan.start_position(row), state);
  }
}

// The token that a row with TOKENS_LAST_SAMPLED carries. A backend that keeps its draws on the
// device gathers them into StepView::tokens there instead. Where no logit was a number any token
// will do, the coordinator drops what comes of it.
int32_t CarriedToken(const SequenceState& state) { return std::max(state.last_draw.token, 0); }

// Appends the row's tokens and positions, and tells them to the sequence where it does not know
// them yet. Explicit ones begin at tokens[next_token]; returns where the next row's begin.
int AppendTokens(const StepPlan& plan, int row, int next_token, SequenceState& state,
                 StepInput& input) {
  const bool carried = plan.token_source(row) == cluster::v1::TOKENS_LAST_SAMPLED;
  const bool reads_tokens = !state.history.empty();
  const int64_t start = plan.start_position(row);
  const int64_t end = start + plan.num_new_tokens(row);
  for (int64_t position = start; position < end; ++position) {
    const int32_t token = carried ? CarriedToken(state) : plan.tokens(next_token++);
    input.tokens.push_back(token);
    input.positions.push_back(static_cast<int32_t>(position));
    if (position >= state.num_known) Learn(state, token, reads_tokens);
  }
  input.query_begin.push_back(static_cast<int32_t>(input.tokens.size()));
  input.kv_length.push_back(static_cast<int32_t>(end));
  state.num_computed = end;
  return next_token;
}

// What the row wants of its logits. Its tokens are the last ones of the input.
void AppendOutputs(const StepPlan& plan, int row, const SequenceState& state, StepInput& input) {
  const int64_t end = state.num_computed;
  const int64_t start = end - plan.num_new_tokens(row);
  PositionRange scored = ScoredPositions(start, end - start, state.num_prompt_tokens);
  if (state.prompt_scores == 0) scored.end = scored.begin;
  for (int64_t position = scored.begin; position < scored.end; ++position) {
    input.prompt_scores.push_back({.logits_row = static_cast<int32_t>(input.output_token.size()),
                                   .token = state.history[position],
                                   .top = state.prompt_scores - 1});
    const int64_t token = input.query_begin[row] + (position - 1 - start);
    input.output_token.push_back(static_cast<int32_t>(token));
  }
  input.num_prompt_scores.push_back(static_cast<uint32_t>(scored.size()));
  input.sample_scores.push_back(state.sample_scores);
  input.num_draws.push_back(0);
  if (plan.output(row) != cluster::v1::OUTPUT_SAMPLE) return;
  // Never one of the rows above: a sequence samples behind the prompt that it scores.
  input.output_token.push_back(input.query_begin.back() - 1);
  SampleRow draw = state.sampling;
  draw.position = static_cast<uint32_t>(end);
  draw.logits_row = static_cast<int32_t>(input.output_token.size()) - 1;
  draw.rules = state.rules.get();
  input.num_draws.back() = plan.num_choices(row);
  for (uint32_t i = 0; i < plan.num_choices(row); ++i, ++draw.choice) {
    input.sampling.push_back(draw);
  }
}

// Appends the row's new blocks, which begin at block_ids[next_block]; returns where the next row's
// begin.
int AppendBlocks(const StepPlan& plan, int row, int next_block, SequenceState& state) {
  const int groups = static_cast<int>(state.block_tables.size());
  for (int group = 0; group < groups; ++group) {
    const uint32_t count = plan.num_new_blocks(row * groups + group);
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t block = plan.block_ids(next_block++);
      // Attention never looks behind a window; an index that is in range still harms nobody.
      state.block_tables[group].push_back(block == kNoBlock ? 0 : static_cast<int32_t>(block));
    }
  }
  return next_block;
}

// Divides the rows, in order, into runs that turn by the same table.
void FillRuns(const std::vector<const SequenceState*>& rows, StepInput& input) {
  input.runs.clear();
  input.run_query_begin.clear();
  for (size_t row = 0; row < rows.size(); ++row) {
    if (input.runs.empty() || input.runs.back().long_rope != rows[row]->long_rope) {
      input.runs.push_back({.first_row = static_cast<int64_t>(row),
                            .num_rows = 0,
                            .first_token = input.query_begin[row],
                            .long_rope = rows[row]->long_rope});
      input.run_query_begin.push_back(0);
    }
    StepInput::Run& run = input.runs.back();
    ++run.num_rows;
    input.run_query_begin.push_back(
        static_cast<int32_t>(input.query_begin[row + 1] - run.first_token));
  }
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

// The runs of step.all. `query_begin`: of all runs, one behind the other.
void MakeRuns(const StepInput& input, TensorView query_begin, GroupStep& step) {
  step.runs.clear();
  int64_t begin = 0;
  for (const StepInput::Run& run : input.runs) {
    StepView rows;
    rows.num_rows = run.num_rows;
    rows.num_tokens = input.query_begin[run.first_row + run.num_rows] - run.first_token;
    rows.tokens = step.all.tokens.Rows(run.first_token, rows.num_tokens);
    rows.positions = step.all.positions.Rows(run.first_token, rows.num_tokens);
    rows.query_begin = query_begin.Rows(begin, run.num_rows + 1);
    rows.kv_length = step.all.kv_length.Rows(run.first_row, run.num_rows);
    rows.block_table = step.all.block_table.Rows(run.first_row, run.num_rows);
    step.runs.push_back({.rows = rows, .first_token = run.first_token, .long_rope = run.long_rope});
    begin += run.num_rows + 1;
  }
}

}  // namespace

void ApplyPlan(const StepPlan& plan, const StepLimits& limits, SequenceMap& sequences,
               StepInput& input) {
  ApplyResets(plan, limits, sequences);
  input.tokens.clear();
  input.positions.clear();
  input.query_begin.assign(1, 0);
  input.kv_length.clear();
  input.output_token.clear();
  input.sampling.clear();
  input.num_draws.clear();
  input.prompt_scores.clear();
  input.num_prompt_scores.clear();
  input.sample_scores.clear();

  // Rows are looked up only after every reset has inserted its sequence, so the pointers stay
  // valid.
  std::vector<const SequenceState*> rows;
  rows.reserve(plan.sequence_size());
  int next_block = 0;
  int next_token = 0;
  for (int row = 0; row < plan.sequence_size(); ++row) {
    SequenceState& state = sequences.find(plan.sequence(row))->second;
    rows.push_back(&state);
    next_block = AppendBlocks(plan, row, next_block, state);
    next_token = AppendTokens(plan, row, next_token, state, input);
    AppendOutputs(plan, row, state, input);
  }
  FillRuns(rows, input);
  input.block_tables.resize(limits.num_blocks.size());
  for (size_t group = 0; group < input.block_tables.size(); ++group) {
    FillBlockTable(rows, group, input.block_tables[group]);
  }
}

void KeepDraws(const StepPlan& plan, const StepInput& input, const std::vector<int32_t>& drawn,
               SequenceMap& sequences) {
  size_t next = 0;
  for (int row = 0; row < plan.sequence_size(); ++row) {
    if (input.num_draws[row] == 1) {
      sequences.find(plan.sequence(row))->second.last_draw = {
          .step = plan.step(), .row = static_cast<uint32_t>(row), .token = drawn[next]};
    }
    next += input.num_draws[row];
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
  // Every run has an entry more than rows.
  TESSERA_ASSIGN_OR_RETURN(arrays.run_query_begin_, NewArray(ops, 2 * limits.rows_max));
  TESSERA_ASSIGN_OR_RETURN(arrays.kv_length_, NewArray(ops, limits.rows_max));
  TESSERA_ASSIGN_OR_RETURN(arrays.output_token_, NewArray(ops, limits.rows_max));
  const int64_t table = limits.rows_max * BlocksFor(limits.context_max, limits.block_size);
  for (size_t group = 0; group < limits.num_blocks.size(); ++group) {
    TESSERA_ASSIGN_OR_RETURN(Buffer buffer, NewArray(ops, table));
    arrays.block_tables_.push_back(std::move(buffer));
  }
  arrays.steps_.resize(limits.num_blocks.size());
  return arrays;
}

const std::vector<GroupStep>& StepArrays::Upload(const ExecContext& ctx, const StepInput& input) {
  StepView view;
  view.num_rows = input.num_rows();
  view.num_tokens = input.num_tokens();
  view.tokens = CopyArray(*ops_, ctx, tokens_, input.tokens);
  view.positions = CopyArray(*ops_, ctx, positions_, input.positions);
  view.query_begin = CopyArray(*ops_, ctx, query_begin_, input.query_begin);
  view.kv_length = CopyArray(*ops_, ctx, kv_length_, input.kv_length);
  view.output_token = CopyArray(*ops_, ctx, output_token_, input.output_token);
  const TensorView run_query_begin =
      input.runs.size() == 1 ? view.query_begin
                             : CopyArray(*ops_, ctx, run_query_begin_, input.run_query_begin);
  for (size_t group = 0; group < steps_.size(); ++group) {
    const StepInput::BlockTable& table = input.block_tables[group];
    CopyArray(*ops_, ctx, block_tables_[group], table.entries);
    view.block_table = block_tables_[group].View(DType::kInt32, {view.num_rows, table.width});
    steps_[group].all = view;
    MakeRuns(input, run_query_begin, steps_[group]);
  }
  return steps_;
}

uint64_t StepArrays::bytes() const {
  uint64_t bytes = tokens_.bytes() + positions_.bytes() + query_begin_.bytes() +
                   run_query_begin_.bytes() + kv_length_.bytes() + output_token_.bytes();
  for (const Buffer& table : block_tables_) bytes += table.bytes();
  return bytes;
}

}  // namespace tessera
