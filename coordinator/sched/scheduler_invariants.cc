// Everything that must hold between two events. The simulator and tests call it after each one.

#include "base/check.h"
#include "coordinator/sched/scheduler_state.h"

namespace tessera {
namespace {

void CheckRunning(const GroupState& group, const Sequence& sequence) {
  TESSERA_CHECK(sequence.status == SequenceStatus::kRunning && sequence.group == &group)
      << "request " << sequence.request_id;
  TESSERA_CHECK(sequence.id > 0 && sequence.last_plan <= group.last_step);
  TESSERA_CHECK(sequence.num_computed_tokens >= 0 && sequence.num_owed_tokens() >= 1)
      << sequence.num_computed_tokens << " of " << sequence.num_tokens() << " computed";
  TESSERA_CHECK(sequence.num_tokens() < sequence.num_tokens_max);
  TESSERA_CHECK(sequence.num_computed_tokens <= sequence.num_held_tokens);
  for (const BlockTable& table : sequence.tables) {
    const int64_t blocks = static_cast<int64_t>(table.ids.size());
    TESSERA_CHECK(blocks * group.blocks->block_size() == sequence.num_held_tokens);
    TESSERA_CHECK(blocks + table.reserved == group.blocks->BlocksFor(sequence.num_kv_tokens_max()));
  }
}

void CheckPlanned(const GroupState& group, const PlanLimits& limits) {
  int64_t tokens = 0;
  TESSERA_CHECK(static_cast<int64_t>(group.planned.size()) <= limits.rows_max);
  for (const PlannedRow& row : group.planned) {
    tokens += row.num_tokens;
    TESSERA_CHECK(row.num_tokens >= 1 && row.num_tokens <= limits.chunk_max);
    TESSERA_CHECK(row.sequence->last_plan == group.last_step);
    if (row.sequence->status == SequenceStatus::kFinished) continue;  // kept in `ended`
    TESSERA_CHECK(row.sequence->group == &group);
    TESSERA_CHECK(row.samples == (row.num_tokens == row.sequence->num_owed_tokens()));
    TESSERA_CHECK(row.sequence->num_computed_tokens + row.num_tokens <=
                  row.sequence->num_held_tokens);
  }
  TESSERA_CHECK(tokens <= limits.tokens_max) << tokens << " tokens in one step";
}

void CheckGroup(const GroupState& group, const PlanLimits& limits) {
  if (!group.in_flight) TESSERA_CHECK(group.planned.empty() && group.ended.empty());
  if (!group.ready) {
    TESSERA_CHECK(!group.in_flight && group.running.empty() && group.owed_tokens == 0);
    return;
  }
  TESSERA_CHECK(static_cast<int64_t>(group.running.size()) <= limits.rows_max);
  int64_t owed = 0;
  std::vector<const BlockTables*> live;
  for (const Sequence* sequence : group.running) {
    CheckRunning(group, *sequence);
    owed += sequence->num_owed_tokens();
    live.push_back(&sequence->tables);
  }
  TESSERA_CHECK(owed == group.owed_tokens) << owed << " owed, counted " << group.owed_tokens;
  group.blocks->CheckInvariants(live);
  CheckPlanned(group, limits);
}

}  // namespace

absl::Status Scheduler::Validate() const {
  const State& state = *state_;
  size_t sequences = 0;
  size_t deadlines = 0;
  const auto check_known = [&](const Sequence& sequence) {
    TESSERA_CHECK(state.Find(sequence.request_id) == &sequence);
    ++sequences;
    if (sequence.request->deadline == absl::InfiniteFuture()) return;
    TESSERA_CHECK(state.deadlines.contains({sequence.request->deadline, sequence.request_id}));
    ++deadlines;
  };
  for (const auto& queue : state.waiting) {
    for (const auto& [ticket, sequence] : queue) {
      TESSERA_CHECK(sequence->status == SequenceStatus::kWaiting && sequence->ticket == ticket);
      TESSERA_CHECK(sequence->num_computed_tokens == 0 && sequence->tables.empty());
      check_known(*sequence);
    }
  }
  for (const auto& [id, group] : state.groups) {
    CheckGroup(group, state.limits);
    for (const Sequence* sequence : group.running) check_known(*sequence);
  }
  TESSERA_CHECK(sequences == state.sequences.size())
      << state.sequences.size() << " sequences, " << sequences << " wait or run";
  TESSERA_CHECK(deadlines == state.deadlines.size());
  return absl::OkStatus();
}

}  // namespace tessera
