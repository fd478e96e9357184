// How sequences end and how a group is lost; see scheduler_state.h.

#include "coordinator/sched/scheduler_state.h"

#include <algorithm>

#include "base/check.h"

namespace tessera {

Scheduler::State::State(SchedulerOptions options_in)
    : options(std::move(options_in)),
      limits{.tokens_max = options.tokens_max,
             .rows_max = options.rows_max,
             .chunk_max = options.chunk_max},
      waiting(options.models.size()) {
  TESSERA_CHECK(options.block_size >= 1 && options.chunk_max >= 1 && options.waiting_max >= 1);
  TESSERA_CHECK(options.rows_max >= 1 && options.tokens_max >= options.rows_max)
      << "tokens_max " << options.tokens_max << " must be at least rows_max " << options.rows_max
      << ", so that every running sequence gets on";
  TESSERA_CHECK(options.heartbeat_interval > absl::ZeroDuration());
}

Sequence* Scheduler::State::Find(RequestId request) const {
  const auto found = sequences.find(request);
  return found == sequences.end() ? nullptr : found->second.get();
}

GroupState* Scheduler::State::FindCurrent(uint32_t group, uint64_t epoch) {
  const auto found = groups.find(group);
  if (found == groups.end() || !found->second.ready || found->second.epoch != epoch) return nullptr;
  return &found->second;
}

int64_t Scheduler::State::NumWaiting() const {
  int64_t count = 0;
  for (const auto& queue : waiting) count += static_cast<int64_t>(queue.size());
  return count;
}

std::unique_ptr<Sequence> Scheduler::State::Conclude(Sequence& sequence, FinishReason reason,
                                                     absl::Status error, int64_t output_tokens,
                                                     absl::Span<const int32_t> tokens) {
  RequestUpdate& update = updates.emplace_back();
  update.request = sequence.request_id;
  update.first_index = static_cast<uint32_t>(output_tokens - static_cast<int64_t>(tokens.size()));
  update.tokens.assign(tokens.begin(), tokens.end());
  update.ended = reason == FinishReason::kStop || reason == FinishReason::kLength;
  update.finished = true;
  update.reason = reason;
  update.error = std::move(error);
  update.prompt_tokens = static_cast<uint32_t>(sequence.num_prompt_tokens);
  update.output_tokens = static_cast<uint32_t>(output_tokens);
  update.first_scheduled = sequence.first_scheduled;
  sequence.status = SequenceStatus::kFinished;
  deadlines.erase({sequence.request->deadline, sequence.request_id});
  auto node = sequences.extract(sequence.request_id);
  TESSERA_CHECK(!node.empty()) << "request " << sequence.request_id << " ends twice";
  return std::move(node.mapped());
}

void Scheduler::State::LeaveGroup(Sequence& sequence) {
  GroupState& group = *sequence.group;
  group.owed_tokens -= sequence.num_owed_tokens();
  group.blocks->Release(sequence.last_plan, sequence.tables);
  if (sequence.last_plan > 0) group.finished_ids.push_back(sequence.id);
}

void Scheduler::State::End(Sequence& sequence, FinishReason reason, absl::Status error,
                           int64_t output_tokens) {
  if (sequence.status == SequenceStatus::kWaiting) {
    waiting[sequence.request->model].erase(sequence.ticket);
    Conclude(sequence, reason, std::move(error), output_tokens);
    return;
  }
  GroupState& group = *sequence.group;
  LeaveGroup(sequence);
  std::erase(group.running, &sequence);
  std::unique_ptr<Sequence> ended = Conclude(sequence, reason, std::move(error), output_tokens);
  if (group.in_flight) group.ended.push_back(std::move(ended));
}

void Scheduler::State::LoseGroup(GroupState& group) {
  group.ready = false;
  group.in_flight = false;
  group.planned.clear();
  group.finished_ids.clear();
  group.ended.clear();
  group.owed_tokens = 0;
  for (Sequence* sequence : group.running) {
    sequence->status = SequenceStatus::kWaiting;
    sequence->num_computed_tokens = 0;
    sequence->group = nullptr;
    sequence->id = 0;
    sequence->last_plan = 0;
    sequence->num_held_tokens = 0;
    sequence->tables.clear();
    waiting[group.model].emplace(sequence->ticket, sequence);
  }
  group.running.clear();
}

}  // namespace tessera
