// Packing chosen rows into a StepPlan, see plan_builder.h and proto/tessera/cluster/v1/step.proto.
// Columns get their length once and are filled in place.

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

template <typename T>
auto* Column(T* column, int length) {
  column->Resize(length, 0);
  return column->mutable_data();
}

// The columns that every row has an entry in.
struct RowColumns {
  RowColumns(StepPlan& plan, int rows)
      : sequence(Column(plan.mutable_sequence(), rows)),
        num_new_tokens(Column(plan.mutable_num_new_tokens(), rows)),
        start_position(Column(plan.mutable_start_position(), rows)),
        output(Column(plan.mutable_output(), rows)),
        num_choices(Column(plan.mutable_num_choices(), rows)),
        token_source(Column(plan.mutable_token_source(), rows)) {}

  uint64_t* sequence;
  uint32_t* num_new_tokens;
  uint32_t* start_position;
  int* output;
  uint32_t* num_choices;
  int* token_source;
};

}  // namespace

void PlanBuilder::AddReset(Sequence& sequence, int row, StepPlan& plan) const {
  const Request& request = *sequence.request->request;
  cluster::v1::SequenceReset& reset = *plan.add_resets();
  reset.set_row(static_cast<uint32_t>(row));
  reset.set_num_prompt_tokens(static_cast<uint32_t>(sequence.num_prompt_tokens));
  reset.set_request_id(request.public_id);
  reset.set_choice(sequence.choice);
  CopySampling(request.sampling, sequence.scores_prompt, *reset.mutable_sampling());
  if (!request.sampling.needs_history()) return;
  const std::vector<int32_t>& tokens = sequence.tokens();
  reset.mutable_history()->Add(tokens.begin(), tokens.end());
}

void PlanBuilder::AddBlocks(Sequence& sequence, bool reset, uint32_t* num_new_blocks,
                            StepPlan& plan) const {
  for (const BlockTable& table : sequence.tables) {
    const size_t known = reset ? 0 : sequence.num_told_blocks;
    *num_new_blocks++ = static_cast<uint32_t>(table.ids.size() - known);
    plan.mutable_block_ids()->Add(table.ids.begin() + static_cast<int64_t>(known), table.ids.end());
  }
  sequence.num_told_blocks = sequence.tables.front().ids.size();
  sequence.has_news = false;
}

void PlanBuilder::Fill(StepPlan& plan) {
  const int rows = static_cast<int>(next_.rows.size());
  const int kv_groups = group_.blocks->num_groups();
  next_.step = ++group_.last_step;
  plan.set_term(options_.term);
  plan.set_epoch(group_.epoch);
  plan.set_group(group_.id);
  plan.set_step(next_.step);
  const RowColumns columns(plan, rows);
  uint32_t* num_new_blocks = Column(plan.mutable_num_new_blocks(), rows * kv_groups);
  plan.mutable_tokens()->Reserve(static_cast<int>(next_.tokens));
  plan.mutable_source_step()->Reserve(rows);
  plan.mutable_source_row()->Reserve(rows);
  for (int i = 0; i < rows; ++i) {
    const PlannedRow& row = next_.rows[static_cast<size_t>(i)];
    if (i + 8 < rows) __builtin_prefetch(next_.rows[static_cast<size_t>(i) + 8].sequence, 1);
    Sequence& sequence = *row.sequence;
    const int64_t start = sequence.num_scheduled_tokens;
    const bool reset = sequence.last_plan == 0;
    columns.sequence[i] = sequence.id;
    columns.num_new_tokens[i] = static_cast<uint32_t>(row.num_tokens);
    columns.start_position[i] = static_cast<uint32_t>(start);
    if (row.num_samples > 0) {
      columns.output[i] = cluster::v1::OUTPUT_SAMPLE;
      columns.num_choices[i] = static_cast<uint32_t>(row.num_samples);
    }
    if (start >= sequence.num_tokens()) {
      TESSERA_CHECK(sequence.num_pending > 0 && sequence.last_plan + 1 == next_.step && !reset);
      columns.token_source[i] = cluster::v1::TOKENS_LAST_SAMPLED;
      plan.mutable_source_step()->AddAlreadyReserved(sequence.last_plan);
      plan.mutable_source_row()->AddAlreadyReserved(sequence.last_row);
    } else {
      const int32_t* from = sequence.tokens().data() + start;
      plan.mutable_tokens()->Add(from, from + row.num_tokens);
    }
    if (reset) AddReset(sequence, i, plan);
    if (sequence.has_news) AddBlocks(sequence, reset, num_new_blocks + i * kv_groups, plan);
    sequence.last_plan = next_.step;
    sequence.num_scheduled_tokens = start + row.num_tokens;
    ++sequence.rows_in_flight;
    sequence.last_row = static_cast<uint32_t>(i);
    if (row.num_samples > 0) ++sequence.num_pending;
    if (reset) {
      absl::Time& first = sequence.request->first_scheduled;
      first = std::min(first, now_);
    }
  }
  for (const BlockCopy& copy : copies_) {
    cluster::v1::BlockCopy& out = *plan.add_copies();
    out.set_kv_group(copy.kv_group);
    out.set_from_block(copy.from);
    out.set_to_block(copy.to);
  }
  plan.mutable_finished_sequences()->Add(group_.finished_ids.begin(), group_.finished_ids.end());
  group_.finished_ids.clear();
  group_.last_plan_time = now_;
  group_.in_flight.push_back(std::move(next_));
}

}  // namespace tessera
