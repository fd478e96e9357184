// Who may run: what is refused, what expires, and which group takes the next waiting sequence. A
// sequence is admitted only when the blocks of its whole possible length are free, so nothing that
// runs ever has to give blocks back.

#include <algorithm>

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
  if (request.sampling.num_choices != 1) {
    return absl::UnimplementedError("more than one choice per request is not supported yet");
  }
  if (NumWaiting() >= options.waiting_max) {
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
    if (group.model != sequence.request->model) continue;
    int64_t blocks = group.blocks->total(0);
    for (int g = 1; g < group.blocks->num_groups(); ++g) {
      blocks = std::min(blocks, group.blocks->total(g));
    }
    kv_tokens = std::max(kv_tokens, blocks * options.block_size);
  }
  const std::string message = absl::StrCat(
      "prompt (", sequence.num_prompt_tokens, " tokens) and max_tokens together reach ",
      sequence.num_tokens_max, " tokens; the KV cache of this deployment holds ", kv_tokens,
      "; lower max_tokens or shorten the prompt");
  // Refused before any work it is the request's fault; later, the deployment has shrunk under it.
  return sequence.first_scheduled == absl::InfiniteFuture() ? absl::InvalidArgumentError(message)
                                                            : absl::ResourceExhaustedError(message);
}

void Scheduler::State::ExpireDeadlines(absl::Time now) {
  while (!deadlines.empty() && deadlines.begin()->first <= now) {
    Sequence& sequence = *Find(deadlines.begin()->second);
    End(sequence, FinishReason::kDeadline, absl::OkStatus(),
        static_cast<int64_t>(sequence.output.size()));
  }
}

GroupState* Scheduler::State::PickGroup(uint32_t model, const Sequence& sequence) {
  GroupState* best = nullptr;
  for (auto& [id, group] : groups) {
    if (!group.ready || group.model != model) continue;
    if (static_cast<int64_t>(group.running.size()) >= options.rows_max) continue;
    if (!group.blocks->CanReserve(sequence.num_kv_tokens_max())) continue;
    if (best == nullptr || group.owed_tokens < best->owed_tokens) best = &group;
  }
  return best;
}

void Scheduler::State::Place(GroupState& group, Sequence& sequence) {
  sequence.status = SequenceStatus::kRunning;
  sequence.group = &group;
  sequence.id = next_sequence_id++;
  group.blocks->Reserve(sequence.num_kv_tokens_max(), sequence.tables);
  group.owed_tokens += sequence.num_owed_tokens();
  group.running.push_back(&sequence);
}

void Scheduler::State::Admit(uint32_t model) {
  auto& queue = waiting[model];
  for (auto next = queue.begin(); next != queue.end();) {
    Sequence& sequence = *next->second;
    GroupState* group = PickGroup(model, sequence);
    if (group != nullptr) {
      Place(*group, sequence);
      next = queue.erase(next);
    } else if (CanEverFit(model, sequence.num_kv_tokens_max(), /*ready_only=*/true)) {
      break;  // its turn comes; nobody overtakes it
    } else {
      ++next;  // only a group that is lost now can hold it
    }
  }
}

}  // namespace tessera
