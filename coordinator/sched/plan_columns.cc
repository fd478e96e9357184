// Packing chosen rows into a StepPlan, see plan_builder.h and proto/tessera/cluster/v1/step.proto.
// Columns get the length of the longest possible plan, are filled in place, and cut at the end.

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "coordinator/sched/plan_builder.h"

namespace tessera {
namespace {

using cluster::v1::StepPlan;

void CopySampling(const SamplingParams& from, bool scores_prompt, cluster::v1::SamplingParams& to) {
  to.set_temperature(from.temperature);
  to.set_top_k(from.top_k);
  to.set_top_p(from.top_p);
  to.set_min_p(from.min_p);
  to.set_seed(from.seed);
  to.set_presence_penalty(from.presence_penalty);
  to.set_frequency_penalty(from.frequency_penalty);
  if (from.repetition_penalty != 1) to.set_repetition_penalty(from.repetition_penalty);
  for (const auto& [token, bias] : from.logit_bias) (*to.mutable_logit_bias())[token] = bias;
  to.mutable_allowed_token_ids()->Add(from.allowed_token_ids.begin(), from.allowed_token_ids.end());
  to.mutable_banned_token_ids()->Add(from.banned_token_ids.begin(), from.banned_token_ids.end());
  to.set_min_tokens(from.min_tokens);
  if (from.min_tokens > 0) {
    to.mutable_min_tokens_banned()->Add(from.stop_token_ids.begin(), from.stop_token_ids.end());
  }
  to.set_logprobs(from.logprobs);
  to.set_top_logprobs(from.top_logprobs);
  if (scores_prompt) to.set_prompt_logprobs(from.prompt_logprobs);
}

// Room for `length` entries, whatever they hold.
template <typename T>
auto* Column(T* column, int length) {
  column->Reserve(length);
  return column->AddNAlreadyReserved(length);
}

}  // namespace

RowColumns::RowColumns(StepPlan& plan, int rows_max, int kv_groups_in)
    : kv_groups(kv_groups_in),
      sequence(Column(plan.mutable_sequence(), rows_max)),
      num_new_tokens(Column(plan.mutable_num_new_tokens(), rows_max)),
      start_position(Column(plan.mutable_start_position(), rows_max)),
      output(Column(plan.mutable_output(), rows_max)),
      num_choices(Column(plan.mutable_num_choices(), rows_max)),
      token_source(Column(plan.mutable_token_source(), rows_max)),
      num_new_blocks(Column(plan.mutable_num_new_blocks(), rows_max * kv_groups)),
      source_step(Column(plan.mutable_source_step(), rows_max)),
      source_row(Column(plan.mutable_source_row(), rows_max)) {}

void RowColumns::Close(StepPlan& plan) const {
  plan.mutable_sequence()->Truncate(rows);
  plan.mutable_num_new_tokens()->Truncate(rows);
  plan.mutable_start_position()->Truncate(rows);
  plan.mutable_output()->Truncate(rows);
  plan.mutable_num_choices()->Truncate(rows);
  plan.mutable_token_source()->Truncate(rows);
  plan.mutable_num_new_blocks()->Truncate(rows * kv_groups);
  plan.mutable_source_step()->Truncate(sources);
  plan.mutable_source_row()->Truncate(sources);
}

void PlanBuilder::AddReset(Sequence& sequence) {
  const Request& request = *sequence.request->request;
  cluster::v1::SequenceReset& reset = *plan_.add_resets();
  reset.set_row(static_cast<uint32_t>(columns_.rows));
  reset.set_num_prompt_tokens(static_cast<uint32_t>(sequence.num_prompt_tokens));
  reset.set_request_id(request.public_id);
  reset.set_traceparent(request.traceparent);
  reset.set_choice(sequence.choice);
  reset.set_long_rope(sequence.long_rope);
  CopySampling(request.sampling, sequence.scores_prompt, *reset.mutable_sampling());
  absl::Time& first = sequence.request->first_scheduled;
  first = std::min(first, now_);
  if (!request.sampling.needs_history()) return;
  const std::vector<int32_t>& tokens = sequence.tokens();
  reset.mutable_history()->Add(tokens.begin(), tokens.end());
}

void PlanBuilder::AddBlocks(Sequence& sequence, bool reset) {
  uint32_t* num_new_blocks = columns_.num_new_blocks + columns_.rows * columns_.kv_groups;
  for (const BlockTable& table : sequence.tables) {
    const size_t known = reset ? 0 : sequence.num_told_blocks;
    *num_new_blocks++ = static_cast<uint32_t>(table.ids.size() - known);
    plan_.mutable_block_ids()->Add(table.ids.begin() + static_cast<int64_t>(known),
                                   table.ids.end());
  }
  sequence.num_told_blocks = sequence.tables.front().ids.size();
  sequence.has_news = false;
}

void PlanBuilder::AddTokens(Sequence& sequence, int64_t tokens) {
  const int64_t start = sequence.num_scheduled_tokens;
  if (start < sequence.num_tokens()) {
    const int32_t* from = sequence.tokens().data() + start;
    plan_.mutable_tokens()->Add(from, from + tokens);
    columns_.token_source[columns_.rows] = cluster::v1::TOKENS_EXPLICIT;
    return;
  }
  TESSERA_CHECK(sequence.num_pending > 0 && sequence.last_plan > 0 &&
                sequence.last_plan + 1 == next_.step);
  columns_.token_source[columns_.rows] = cluster::v1::TOKENS_LAST_SAMPLED;
  columns_.source_step[columns_.sources] = sequence.last_plan;
  columns_.source_row[columns_.sources++] = sequence.last_row;
}

void PlanBuilder::AddRow(Sequence& sequence, int64_t tokens) {
  const int i = columns_.rows;
  const int64_t start = sequence.num_scheduled_tokens;
  const int64_t known = sequence.num_tokens() + int64_t{sequence.num_pending};
  PlannedRow& row = next_.rows[static_cast<size_t>(i)];
  row.sequence = &sequence;
  row.num_tokens = static_cast<int32_t>(tokens);
  row.num_scored = static_cast<uint16_t>(sequence.NumScored(tokens));
  row.num_samples = start + tokens < known ? 0 : static_cast<uint8_t>(sequence.num_slots());
  row.wants_logprobs = sequence.wants_logprobs;
  row.is_plain = tokens == 1 && row.num_samples == 1 && row.num_scored == 0 && !row.wants_logprobs;
  next_.tokens += static_cast<double>(tokens);
  next_.attended += AttendedPairs(start, tokens);
  tokens_left_ -= tokens;
  outputs_left_ -= row.num_scored + row.num_samples;

  columns_.sequence[i] = sequence.id;
  columns_.num_new_tokens[i] = static_cast<uint32_t>(tokens);
  columns_.start_position[i] = static_cast<uint32_t>(start);
  columns_.output[i] = row.num_samples > 0 ? cluster::v1::OUTPUT_SAMPLE : cluster::v1::OUTPUT_NONE;
  columns_.num_choices[i] = static_cast<uint32_t>(row.num_samples);
  AddTokens(sequence, tokens);
  const bool reset = sequence.last_plan == 0;
  if (reset) AddReset(sequence);
  if (sequence.has_news) {
    AddBlocks(sequence, reset);
  } else {
    std::fill_n(columns_.num_new_blocks + i * columns_.kv_groups, columns_.kv_groups, 0);
  }
  sequence.chosen_step = next_.step;
  sequence.last_plan = next_.step;
  sequence.last_row = static_cast<uint32_t>(i);
  sequence.num_scheduled_tokens = start + tokens;
  ++sequence.rows_in_flight;
  if (row.num_samples > 0) ++sequence.num_pending;
  ++columns_.rows;
}

// Out of line: the loop that seldom needs it keeps its registers.
[[gnu::noinline]] static void SetAside(Sequence& sequence, std::vector<Sequence*>& others) {
  others.push_back(&sequence);
}

void PlanBuilder::AddNextTokens(std::vector<Sequence*>& others) {
  TESSERA_CHECK(columns_.rows == 0);
  const uint64_t step = next_.step;
  const int rows_max = static_cast<int>(std::min(tokens_left_, outputs_left_));
  PlannedRow* const planned = next_.rows.data();
  const RowColumns columns = columns_;
  int64_t attended = 0;
  int row = 0;
  const absl::Span<Sequence* const> running = group_.running;
  for (size_t i = 0; i < running.size(); ++i) {
    Prefetch(*running[std::min(i + kPrefetchAhead, running.size() - 1)], /*all=*/false);
    Sequence& sequence = *running[i];
    if (row == rows_max || !sequence.TakesNextTokenOnly(step)) {
      SetAside(sequence, others);
      continue;
    }
    planned[row] = {.sequence = &sequence,
                    .num_tokens = 1,
                    .num_samples = 1,
                    .wants_logprobs = sequence.wants_logprobs,
                    .is_plain = !sequence.wants_logprobs};
    const int64_t position = sequence.num_scheduled_tokens;
    attended += position + 1;
    columns.sequence[row] = sequence.id;
    columns.start_position[row] = static_cast<uint32_t>(position);
    columns.source_row[row] = sequence.last_row;
    sequence.num_scheduled_tokens = position + 1;
    sequence.chosen_step = step;
    sequence.last_plan = step;
    sequence.last_row = static_cast<uint32_t>(row++);
    ++sequence.rows_in_flight;
    sequence.num_pending = 2;
  }
  std::fill_n(columns.num_new_tokens, row, 1u);
  std::fill_n(columns.output, row, cluster::v1::OUTPUT_SAMPLE);
  std::fill_n(columns.num_choices, row, 1u);
  std::fill_n(columns.token_source, row, cluster::v1::TOKENS_LAST_SAMPLED);
  std::fill_n(columns.source_step, row, step - 1);
  std::fill_n(columns.num_new_blocks, row * columns.kv_groups, 0u);
  columns_.rows = columns_.sources = row;
  next_.tokens += row;
  next_.attended += static_cast<double>(attended);
  tokens_left_ -= row;
  outputs_left_ -= row;
  decodes_ = row > 0;
}

void PlanBuilder::Finish() {
  ++group_.last_step;
  plan_.set_term(options_.term);
  plan_.set_epoch(group_.epoch);
  plan_.set_group(group_.id);
  plan_.set_step(next_.step);
  columns_.Close(plan_);
  next_.rows.resize(static_cast<size_t>(columns_.rows));
  for (const BlockCopy& copy : copies_) {
    cluster::v1::BlockCopy& out = *plan_.add_copies();
    out.set_kv_group(copy.kv_group);
    out.set_from_block(copy.from);
    out.set_to_block(copy.to);
  }
  plan_.mutable_finished_sequences()->Add(group_.finished_ids.begin(), group_.finished_ids.end());
  group_.finished_ids.clear();
  group_.last_plan_time = now_;
  group_.in_flight.push_back(std::move(next_));
}

}  // namespace tessera
