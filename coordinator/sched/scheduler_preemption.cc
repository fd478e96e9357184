// Taking room from others. A sequence that is chosen gets no new rows; when those in flight have
// been answered (their tokens count) it gives its blocks back and waits, to be computed again.

#include <algorithm>
#include <tuple>
#include <vector>

#include "base/check.h"
#include "coordinator/sched/scheduler_state.h"

namespace tessera {
namespace {

// Who is preempted first: tenants over their share, low priority, least lost work, latest arrival.
struct Victim {
  Sequence* sequence = nullptr;
  std::tuple<bool, int, int64_t, uint64_t> key;  // larger goes first
};

Victim ToVictim(Scheduler::State& state, Sequence& sequence, absl::Time now) {
  const bool over = state.IsOverShare(sequence.request->request->model, sequence.request->tenant);
  const int level = state.ModelOf(sequence).queue.Level(sequence, now);
  // What others hold too need not be computed again.
  const int64_t lost = std::min(sequence.num_scheduled_tokens,
                                sequence.group->blocks->PrivateTokens(sequence.tables));
  return {&sequence, {over, -level, -lost, sequence.request->ticket}};
}

}  // namespace

Sequence* Scheduler::State::OldestOf(const GroupState& group) {
  Sequence* oldest = nullptr;
  for (Sequence* sequence : group.running) {
    if (sequence->leaving) continue;
    if (oldest == nullptr || std::pair(sequence->request->ticket, sequence->choice) <
                                 std::pair(oldest->request->ticket, oldest->choice)) {
      oldest = sequence;
    }
  }
  return oldest;
}

int64_t Scheduler::State::LeavingTokens(const GroupState& group) const {
  if (group.num_leaving == 0) return 0;
  int64_t tokens = 0;
  for (const Sequence* sequence : group.running) {
    if (sequence->leaving) tokens += group.blocks->PrivateTokens(sequence->tables);
  }
  return tokens;
}

void Scheduler::State::Leave(Sequence& sequence) {
  TESSERA_CHECK(sequence.status == SequenceStatus::kRunning && !sequence.leaving);
  ++ModelOf(sequence).counted.preemptions;
  StepAside(sequence);
  if (sequence.rows_in_flight == 0) Requeue(sequence);
}

void Scheduler::State::StepAside(Sequence& sequence) {
  sequence.leaving = true;
  ++sequence.group->num_leaving;
}

bool Scheduler::State::TakeRoom(GroupState& group, const Sequence& for_sequence, int64_t tokens,
                                absl::Time now) {
  const auto coming = [&] {
    return group.blocks->FreeTokens() + group.blocks->PinnedTokens() + LeavingTokens(group);
  };
  if (coming() >= tokens) return true;
  const Sequence* oldest = OldestOf(group);
  std::vector<Victim> victims;
  for (Sequence* sequence : group.running) {
    const bool is_chosen = sequence->chosen_step == group.last_step + 1;
    if (sequence->leaving || sequence == oldest || is_chosen) continue;
    victims.push_back(ToVictim(*this, *sequence, now));
  }
  std::sort(victims.begin(), victims.end(),
            [](const Victim& a, const Victim& b) { return a.key > b.key; });
  bool took = false;
  for (const Victim& victim : victims) {
    if (coming() >= tokens) break;
    Leave(*victim.sequence);
    took = true;
    // Whoever gives up its own place needs nothing any more.
    if (victim.sequence == &for_sequence) break;
  }
  return took;
}

void Scheduler::State::Reclaim(uint32_t model, const Sequence& sequence, absl::Time now) {
  const int level = models[model]->queue.Level(sequence, now);
  // Nobody takes from those who would come before it again when they wait: two could do that to
  // each other for ever.
  const bool borrows = Borrows(model, sequence);
  for (auto& [id, group] : groups) {
    if (!group.ready || group.model != model) continue;
    if (!group.blocks->CanEverFit(sequence.num_kv_tokens_max())) continue;
    int64_t slots = options.rows_max - group.num_slots;
    int64_t tokens = group.blocks->RoomTokens();
    std::vector<Victim> victims;
    for (Sequence* other : group.running) {
      if (other->leaving) {
        slots += other->num_slots();
        tokens += group.blocks->PrivateTokens(other->tables);
        continue;
      }
      const Victim victim = ToVictim(*this, *other, now);
      const bool over = std::get<0>(victim.key);
      const bool is_lower = -std::get<1>(victim.key) < level;
      if ((over && !borrows) || (over == borrows && is_lower)) victims.push_back(victim);
    }
    std::sort(victims.begin(), victims.end(),
              [](const Victim& a, const Victim& b) { return a.key > b.key; });
    const int64_t needed = group.blocks->KeptTokens(sequence.num_tokens() + options.block_size);
    const auto enough = [&] { return slots >= sequence.num_slots() && tokens >= needed; };
    size_t count = 0;
    for (; count < victims.size() && !enough(); ++count) {
      const Sequence& victim = *victims[count].sequence;
      slots += victim.num_slots();
      tokens += group.blocks->PrivateTokens(victim.tables);
    }
    if (!enough()) continue;  // not even all of them would do
    for (size_t i = 0; i < count; ++i) Leave(*victims[i].sequence);
    return;
  }
}

}  // namespace tessera
