// Who may run: what is refused, what expires, and which group takes the next waiting sequence.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/sched/scheduler_state.h"

namespace tessera {

absl::Status Scheduler::State::CheckRequest(const Request& request) const {
  if (request.model >= options.models.size()) {
    return absl::NotFoundError(absl::StrCat("there is no model number ", request.model));
  }
  if (draining) {
    return absl::UnavailableError("the server is draining and takes no new requests; try another");
  }
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t context_max = options.models[request.model].context_max;
  if (prompt == 0) return absl::InvalidArgumentError("the prompt has no tokens");
  if (prompt >= context_max) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", prompt,
                                                   " tokens; the context holds ", context_max,
                                                   ", the answer included"));
  }
  if (request.sampling.max_tokens == 0)
    return absl::InvalidArgumentError("max_tokens must be >= 1");
  const int64_t choices_max = std::min<int64_t>(kChoicesMax, options.rows_max);
  if (request.sampling.num_choices < 1 || request.sampling.num_choices > choices_max) {
    return absl::InvalidArgumentError(absl::StrCat(
        "n = ", request.sampling.num_choices, " choices; this server gives 1 to ", choices_max));
  }
  int64_t num_waiting = 0;
  for (const auto& model : models) num_waiting += model->queue.size();
  if (num_waiting >= options.waiting_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full (", options.waiting_max, " requests wait); retry later"));
  }
  return absl::OkStatus();
}

bool Scheduler::State::IsKnown(uint32_t model) const {
  return std::any_of(groups.begin(), groups.end(),
                     [&](const auto& entry) { return entry.second.model == model; });
}

bool Scheduler::State::CanEverFit(uint32_t model, int64_t tokens, bool ready_only) const {
  return std::any_of(groups.begin(), groups.end(), [&](const auto& entry) {
    const GroupState& group = entry.second;
    return group.model == model && (group.ready || !ready_only) && group.blocks->CanEverFit(tokens);
  });
}

absl::Status Scheduler::State::NeverFits(const Sequence& sequence) const {
  int64_t kv_tokens = 0;  // of the group that holds most
  for (const auto& [id, group] : groups) {
    if (group.model != sequence.request->request->model) continue;
    kv_tokens = std::max(kv_tokens, group.blocks->TotalTokens());
  }
  const std::string message = absl::StrCat(
      "prompt (", sequence.num_prompt_tokens, " tokens) and max_tokens together reach ",
      sequence.num_tokens_max, " tokens; the KV cache of this deployment holds ", kv_tokens,
      "; lower max_tokens or shorten the prompt");
  // Refused before any work it is the request's fault; later, the deployment has shrunk under it.
  return sequence.request->placed ? absl::ResourceExhaustedError(message)
                                  : absl::InvalidArgumentError(message);
}

void Scheduler::State::ExpireDeadlines(absl::Time now) {
  while (!deadlines.empty() && deadlines.begin()->first <= now) {
    Finish(*Find(deadlines.begin()->second), FinishReason::kDeadline, absl::OkStatus());
  }
}

// Even alone, and from now on without a wait, the prompt would not be computed in time. A guess
// that errs on the side of trying.
bool Scheduler::State::MissesDeadline(const Sequence& sequence, absl::Time now) const {
  const RequestState& request = *sequence.request;
  if (request.placed || request.request->deadline == absl::InfiniteFuture()) return false;
  const double left = absl::ToDoubleSeconds(request.request->deadline - now);
  bool judged = false;
  for (const auto& [id, group] : groups) {
    if (group.model != request.request->model || !group.ready) continue;
    const int64_t tokens = sequence.num_tokens();
    const double pairs = AttendedPairs(0, tokens);
    const bool in_time =
        !group.cost.known() || group.cost.Added(static_cast<double>(tokens), pairs) <= left;
    if (in_time) return false;
    judged = true;
  }
  return judged;
}

bool Scheduler::State::IsOverShare(uint32_t model, const TenantState& tenant,
                                   int64_t more_tokens) const {
  if (tenant.kv_share >= 1) return false;
  int64_t total = 0;
  for (const auto& [id, group] : groups) {
    if (group.ready && group.model == model) total += group.blocks->TotalTokens();
  }
  return static_cast<double>(tenant.held_tokens + more_tokens) >
         tenant.kv_share * static_cast<double>(total);
}

bool Scheduler::State::Borrows(uint32_t model, const Sequence& sequence) const {
  const int64_t tokens = sequence.num_tokens() + options.block_size;
  for (const auto& [id, group] : groups) {
    if (!group.ready || group.model != model) continue;
    return IsOverShare(model, sequence.request->tenant, group.blocks->KeptTokens(tokens));
  }
  return false;
}

BlockManager::PrefixHit Scheduler::State::FindHit(const GroupState& group,
                                                  Sequence& sequence) const {
  const RequestState& request = *sequence.request;
  const bool scores = request.request->sampling.prompt_logprobs > 0 &&
                      request.num_prompt_scored < request.num_prompt_tokens();
  if (!request.caches || scores) return {};
  // At least one token is computed, so that there is something to draw from.
  const int64_t blocks = (sequence.num_tokens() - 1) / options.block_size;
  return group.blocks->FindPrefix(ChainOf(sequence, blocks));
}

bool Scheduler::State::Fits(const GroupState& group, const Sequence& sequence,
                            const BlockManager::PrefixHit& hit) const {
  if (group.running.empty()) return true;  // CanEverFit is known
  for (int kv_group = 0; kv_group < group.blocks->num_groups(); ++kv_group) {
    if (!FitsKvGroup(group, kv_group, sequence, hit)) return false;
  }
  return true;
}

bool Scheduler::State::FitsKvGroup(const GroupState& group, int kv_group, const Sequence& sequence,
                                   const BlockManager::PrefixHit& hit) const {
  const BlockManager& blocks = *group.blocks;
  const int64_t block_size = blocks.block_size();
  const OutputLengths& lengths = models[group.model]->lengths;
  Outlook outlook;
  const auto kept = [&](int64_t tokens) { return blocks.KeptTokens(kv_group, tokens); };
  const auto add = [&](const Sequence& s, int64_t shared) {
    const int64_t most = s.num_tokens_max - s.num_prompt_tokens;
    const int64_t remaining = lengths.Remaining(s.num_output(), most);
    // Every sequence wastes the rest of its last block. Behind a window nothing grows any more.
    const int64_t now = kept(std::max<int64_t>(s.num_held_tokens, s.num_tokens() + block_size));
    const auto growth = [&](int64_t tokens) {
      return kept(s.num_tokens() + block_size + tokens) - kept(s.num_tokens() + block_size);
    };
    outlook.Add(now - std::min(shared, kept(s.num_tokens())), growth(remaining),
                growth(most - s.num_output()));
    for (int64_t i = 1; i < s.num_slots(); ++i) {
      outlook.Add(block_size, growth(remaining), growth(most - s.num_output()));
    }
  };
  int64_t own_held = 0;
  for (const Sequence* other : group.running) {
    own_held += std::max<int64_t>(kept(other->num_held_tokens) - other->num_shared_tokens, 0);
    add(*other, other->num_shared_tokens);
  }
  const int64_t total = blocks.total(kv_group) * block_size;
  const int64_t held = total - blocks.free(kv_group) * block_size;
  add(sequence, hit.held * block_size);
  return outlook.Fits(std::max<int64_t>(held - own_held, 0), total);
}

Scheduler::State::Place Scheduler::State::FindPlace(uint32_t model, Sequence& sequence) const {
  Place best;
  int64_t best_cost = 0;  // tokens that will have been computed before this one is through
  for (const auto& [id, group] : groups) {
    if (!group.ready || group.model != model) continue;
    if (group.num_slots + sequence.num_slots() > options.rows_max) continue;
    if (!group.blocks->CanEverFit(sequence.num_kv_tokens_max())) continue;
    const BlockManager::PrefixHit hit = FindHit(group, sequence);
    if (!Fits(group, sequence, hit)) continue;
    const int64_t cost =
        group.owed_tokens + sequence.num_tokens() - hit.blocks * options.block_size;
    if (best.group == nullptr || cost < best_cost) {
      best = {const_cast<GroupState*>(&group), hit};
      best_cost = cost;
    }
  }
  return best;
}

void Scheduler::State::Enter(const Place& place, Sequence& sequence) {
  GroupState& group = *place.group;
  RequestState& request = *sequence.request;
  const int64_t hit = place.hit.blocks * options.block_size;
  ModelOf(sequence).queue.Erase(sequence);
  sequence.status = SequenceStatus::kRunning;
  sequence.group = &group;
  sequence.id = next_sequence_id++;
  sequence.scores_prompt = request.request->sampling.prompt_logprobs > 0 &&
                           request.num_prompt_scored < request.num_prompt_tokens();
  group.blocks->Open(place.hit.blocks > 0 ? ChainOf(sequence, place.hit.blocks) : PrefixChain(),
                     place.hit.blocks, sequence.tables);
  sequence.num_computed_tokens = sequence.num_scheduled_tokens = hit;
  sequence.num_held_tokens = static_cast<int32_t>(hit);
  sequence.num_content_blocks = place.hit.blocks;
  sequence.num_shared_tokens = place.hit.held * options.block_size;
  request.tenant.held_tokens += group.blocks->KeptTokens(hit);
  ++request.tenant.num_running;
  group.running.push_back(&sequence);
  group.num_slots += sequence.num_slots();
  group.owed_tokens += sequence.num_owed_tokens();
  ModelStats& counted = ModelOf(sequence).counted;
  if (request.caches && !sequence.scores_prompt) {
    counted.prefix_query_tokens += static_cast<uint64_t>(sequence.num_tokens());
    counted.prefix_hit_tokens += static_cast<uint64_t>(hit);
  }
  if (std::exchange(request.placed, true)) return;
  request.cached_tokens = static_cast<uint32_t>(std::min(hit, request.num_prompt_tokens()));
  // What the prompt costs is charged before it is computed, so that nobody gets ahead by sending
  // many at once; what is lost and computed again is not the tenant's doing.
  FairQueue::Charge(request.tenant, static_cast<double>(sequence.num_owed_tokens()));
}

void Scheduler::State::Admit(uint32_t model, absl::Time now) {
  ModelState& state = *models[model];
  const auto borrows = [&](const Sequence& sequence) { return Borrows(model, sequence); };
  std::vector<Sequence*> passed_over;
  bool has_reclaimed = false;
  while (Sequence* sequence = state.queue.Next(now, borrows)) {
    const std::pair<uint64_t, uint32_t> place_in_line = {sequence->request->ticket,
                                                         sequence->choice};
    if (state.blocked == place_in_line && state.blocked_version == state.room_version) break;
    if (MissesDeadline(*sequence, now)) {
      Finish(*sequence->request, FinishReason::kDeadline,
             absl::DeadlineExceededError("the prompt cannot be computed before the deadline"));
      continue;
    }
    const Place place = FindPlace(model, *sequence);
    if (place.group != nullptr) {
      Enter(place, *sequence);
    } else if (CanEverFit(model, sequence->num_kv_tokens_max(), /*ready_only=*/true)) {
      // Its turn comes; nobody overtakes it.
      const uint64_t version = state.room_version;
      if (!std::exchange(has_reclaimed, true)) Reclaim(model, *sequence, now);
      if (state.room_version != version) continue;  // somebody left at once
      state.blocked = place_in_line;
      state.blocked_version = state.room_version;
      break;
    } else {
      state.queue.Erase(*sequence);  // only a group that is lost now can hold it
      passed_over.push_back(sequence);
    }
  }
  for (Sequence* sequence : passed_over) state.queue.PushBack(*sequence);
}

}  // namespace tessera
