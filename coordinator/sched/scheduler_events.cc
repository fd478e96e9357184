// What each event but StepDone does; see event.h. Stale news (an older epoch, a request that has
// ended) changes nothing.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/sched/scheduler_state.h"

namespace tessera {

void Scheduler::State::OnNewRequest(const NewRequest& event, absl::Time now) {
  const std::shared_ptr<const Request>& request = event.request;
  absl::Status refusal = CheckRequest(*request);
  if (!refusal.ok()) {
    RequestUpdate& update = updates.emplace_back();
    update.request = request->id;
    update.finished = true;
    update.reason = FinishReason::kRejected;
    update.details.Make().error = std::move(refusal);
    update.details.Make().prompt_tokens = static_cast<uint32_t>(request->prompt.size());
    accounts.push_back({.request = request->id, .work = {}});
    return;
  }
  FairQueue& queue = models[request->model]->queue;
  auto [entry, is_new] = requests.try_emplace(
      request->id,
      std::make_unique<RequestState>(request, next_ticket++, queue.Tenant(request->tenant)));
  TESSERA_CHECK(is_new) << "request id " << request->id << " is used twice";
  RequestState& state = *entry->second;
  state.caches = options.prefix_cache && request->cache.enabled;
  if (state.caches) {
    state.prefix_root = RootOf(*request, /*long_rope=*/false);
    state.long_prefix_root = RootOf(*request, /*long_rope=*/true);
  }
  state.sequences.push_back(NewSequence(state, 0));
  Sequence& sequence = *state.sequences.front();
  sequence.unforked = request->sampling.num_choices > 1;
  if (request->deadline != absl::InfiniteFuture()) {
    deadlines.emplace(request->deadline, request->id);
  }
  queue.Push(sequence);
  if (IsKnown(request->model) &&
      !CanEverFit(request->model, sequence.num_kv_tokens_max(), /*ready_only=*/false)) {
    Finish(state, FinishReason::kRejected, NeverFits(sequence));
  } else if (MissesDeadline(sequence, now)) {
    Finish(state, FinishReason::kDeadline,
           absl::DeadlineExceededError("the prompt cannot be computed before the deadline"));
  }
}

void Scheduler::State::OnCancel(const Cancel& event) {
  RequestState* request = Find(event.request);
  if (request != nullptr) Finish(*request, event.reason, absl::OkStatus());
}

void Scheduler::State::OnTextStop(const TextStop& event) {
  RequestState* request = Find(event.request);
  if (request == nullptr) return;
  Sequence* sequence =
      event.choice < request->sequences.size() ? request->sequences[event.choice].get() : nullptr;
  const int64_t kept = int64_t{event.index} + 1;
  const int64_t committed = sequence == nullptr ? 0 : sequence->num_output();
  if (kept > committed) {
    Finish(*request, FinishReason::kError,
           absl::InternalError(absl::StrCat("a stop was reported at token ", event.index,
                                            " of choice ", event.choice, ", which has ", committed,
                                            " tokens")));
    return;
  }
  if (sequence->confirmed) return;
  CutOff(*sequence, committed - kept);
  // Tokens past the end that were committed in this turn are not told any more; earlier ones are
  // out, and the text side drops them.
  std::erase_if(updates, [&](const RequestUpdate& update) {
    return update.request == event.request && update.choice == event.choice &&
           !update.tokens().empty() && update.first_index >= kept;
  });
  if (sequence->status != SequenceStatus::kEnded) {
    EndChoice(*sequence, FinishReason::kStop, kept);
    if (sequence->group != nullptr) SweepRunning(*sequence->group);
  }
  sequence->reason = FinishReason::kStop;
  sequence->num_output_tokens = kept;
  Confirm(*sequence);
}

void Scheduler::State::OnTextEnd(const TextEnd& event) {
  RequestState* request = Find(event.request);
  if (request == nullptr || event.choice >= request->sequences.size()) return;
  Sequence& sequence = *request->sequences[event.choice];
  if (sequence.awaits_text && !sequence.confirmed) Confirm(sequence);
}

void Scheduler::State::OnGroupReady(const GroupReady& event, absl::Time now) {
  TESSERA_CHECK(event.model < options.models.size()) << "group " << event.group;
  const std::vector<KvGroup>& kv_groups = options.models[event.model].kv_groups;
  TESSERA_CHECK(!event.num_blocks.empty() && event.num_blocks.size() == kv_groups.size())
      << "group " << event.group << " has pools for " << event.num_blocks.size() << " KvGroups";
  GroupState& group = groups[event.group];
  if (event.epoch <= group.epoch && group.blocks != nullptr) return;
  if (group.ready) LoseGroup(group);
  group.id = event.group;
  group.model = event.model;
  group.epoch = event.epoch;
  group.ready = true;
  std::vector<PoolSpec> pools;
  group.has_windows = false;
  for (size_t i = 0; i < kv_groups.size(); ++i) {
    const bool is_window = kv_groups[i].kind == KvGroup::Kind::kWindow;
    group.has_windows = group.has_windows || is_window;
    pools.push_back({.num_blocks = event.num_blocks[i],
                     .window = is_window ? kv_groups[i].window : 0,
                     .chunk_max = options.chunk_max});
  }
  group.blocks = std::make_unique<BlockManager>(options.block_size, pools);
  group.last_step = 0;
  group.last_plan_time = now;
  group.last_progress = now;
  ++models[event.model]->room_version;
  // A smaller group may have come back: who fits nowhere any more must not wait for ever.
  std::map<RequestId, Sequence*> hopeless;
  for (Sequence* sequence : models[event.model]->queue.All()) {
    if (CanEverFit(event.model, sequence->num_kv_tokens_max(), /*ready_only=*/false)) continue;
    hopeless.emplace(sequence->request->id, sequence);
  }
  for (const auto& [id, sequence] : hopeless) {
    RequestState& request = *sequence->request;
    Finish(request, request.placed ? FinishReason::kError : FinishReason::kRejected,
           NeverFits(*sequence));
  }
}

void Scheduler::State::OnGroupLost(const GroupLost& event) {
  GroupState* group = FindCurrent(event.group, event.epoch);
  if (group != nullptr) LoseGroup(*group);
}

void Scheduler::State::OnSetTenants(const SetTenants& event) {
  for (const auto& model : models) model->queue.SetTenants(event.tenants);
}

}  // namespace tessera
