// What each event does; see event.h. Stale news (an older epoch, another step, a request that has
// ended) changes nothing.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/sched/scheduler_state.h"

namespace tessera {
namespace {

using cluster::v1::StepResult;

bool HasError(const StepDone& event) {
  return std::any_of(event.rank_results.begin(), event.rank_results.end(),
                     [](const StepResult& result) { return result.has_error(); });
}

// One token for every row that samples, none for the others.
bool AnswersRows(const StepResult& result, const std::vector<PlannedRow>& planned) {
  if (result.num_sampled_size() != static_cast<int>(planned.size())) return false;
  int64_t sampled = 0;
  for (size_t i = 0; i < planned.size(); ++i) {
    const uint32_t expected = planned[i].samples ? 1 : 0;
    if (result.num_sampled(static_cast<int>(i)) != expected) return false;
    sampled += expected;
  }
  return result.sampled_size() == sampled;
}

}  // namespace

void Scheduler::State::OnNewRequest(const NewRequest& event) {
  const std::shared_ptr<const Request>& request = event.request;
  absl::Status refusal = CheckRequest(*request);
  if (!refusal.ok()) {
    RequestUpdate& update = updates.emplace_back();
    update.request = request->id;
    update.finished = true;
    update.reason = FinishReason::kRejected;
    update.error = std::move(refusal);
    update.prompt_tokens = static_cast<uint32_t>(request->prompt.size());
    return;
  }
  auto [entry, is_new] = sequences.try_emplace(
      request->id, std::make_unique<Sequence>(request, next_ticket++,
                                              options.models[request->model].context_max));
  TESSERA_CHECK(is_new) << "request id " << request->id << " is used twice";
  Sequence& sequence = *entry->second;
  if (request->deadline != absl::InfiniteFuture()) {
    deadlines.emplace(request->deadline, request->id);
  }
  waiting[request->model].emplace(sequence.ticket, &sequence);
  if (IsKnown(request->model) &&
      !CanEverFit(request->model, sequence.num_kv_tokens_max(), /*ready_only=*/false)) {
    End(sequence, FinishReason::kRejected, NeverFits(sequence), 0);
  }
}

void Scheduler::State::OnCancel(const Cancel& event) {
  Sequence* sequence = Find(event.request);
  if (sequence == nullptr) return;
  End(*sequence, event.reason, absl::OkStatus(), static_cast<int64_t>(sequence->output.size()));
}

void Scheduler::State::OnTextStop(const TextStop& event) {
  Sequence* sequence = Find(event.request);
  if (sequence == nullptr) return;
  const int64_t committed = static_cast<int64_t>(sequence->output.size());
  const int64_t kept = int64_t{event.index} + 1;
  if (event.choice != 0 || kept > committed) {
    End(*sequence, FinishReason::kError,
        absl::InternalError(absl::StrCat("a stop was reported at token ", event.index,
                                         " of choice ", event.choice, ", of ", committed,
                                         " tokens")),
        committed);
    return;
  }
  // Tokens past the end that were committed in this turn are not told any more; earlier ones are
  // out.
  std::erase_if(updates, [&](const RequestUpdate& update) {
    return update.request == event.request && update.first_index >= kept;
  });
  End(*sequence, FinishReason::kStop, absl::OkStatus(), kept);
}

void Scheduler::State::OnStepDone(const StepDone& event, absl::Time now) {
  if (event.rank_results.empty()) return;
  const StepResult& result = event.rank_results.front();
  GroupState* group = FindCurrent(event.group, result.epoch());
  if (group == nullptr || result.term() != options.term || !group->in_flight ||
      result.step() != group->last_step) {
    return;
  }
  // The cluster reports such a group lost too; until then it must not get another plan.
  if (HasError(event) || !AnswersRows(result, group->planned)) {
    LoseGroup(*group);
    return;
  }
  group->in_flight = false;
  group->last_progress = now;
  ++group->steps;
  group->blocks->Retire(result.step());
  CommitRows(*group, result.sampled());
  group->planned.clear();
  group->ended.clear();
}

void Scheduler::State::CommitRows(GroupState& group, absl::Span<const int32_t> sampled) {
  const size_t ended_before = group.ended.size();
  auto next_sampled = sampled.begin();
  for (const PlannedRow& row : group.planned) {
    Sequence& sequence = *row.sequence;
    const bool over = sequence.status == SequenceStatus::kFinished;
    if (!over) {
      sequence.num_computed_tokens += row.num_tokens;
      group.owed_tokens -= row.num_tokens;
    }
    if (!row.samples) continue;
    const int32_t token = *next_sampled++;
    if (!over) CommitToken(group, sequence, token);
  }
  if (group.ended.size() == ended_before) return;
  std::erase_if(group.running, [](const Sequence* sequence) {
    return sequence->status == SequenceStatus::kFinished;
  });
}

void Scheduler::State::CommitToken(GroupState& group, Sequence& sequence, int32_t token) {
  const int64_t index = static_cast<int64_t>(sequence.output.size());
  const auto end = [&](FinishReason reason, absl::Status error, int64_t output_tokens,
                       absl::Span<const int32_t> tokens) {
    LeaveGroup(sequence);
    group.ended.push_back(Conclude(sequence, reason, std::move(error), output_tokens, tokens));
  };
  if (token < 0) {
    end(FinishReason::kError,
        absl::InternalError(absl::StrCat("no token could be sampled at output position ", index,
                                         "; the logits were not finite")),
        index, {});
    return;
  }
  sequence.output.push_back(token);
  ++group.owed_tokens;
  const bool stops = std::find(sequence.stop_token_ids.begin(), sequence.stop_token_ids.end(),
                               token) != sequence.stop_token_ids.end();
  if (stops || sequence.num_tokens() == sequence.num_tokens_max) {
    end(stops ? FinishReason::kStop : FinishReason::kLength, absl::OkStatus(), index + 1,
        {&token, 1});
    return;
  }
  RequestUpdate& update = updates.emplace_back();
  update.request = sequence.request_id;
  update.first_index = static_cast<uint32_t>(index);
  update.tokens.push_back(token);
  update.first_scheduled = sequence.first_scheduled;
}

void Scheduler::State::OnGroupReady(const GroupReady& event, absl::Time now) {
  TESSERA_CHECK(event.model < options.models.size()) << "group " << event.group;
  TESSERA_CHECK(!event.num_blocks.empty() &&
                event.num_blocks.size() == options.models[event.model].kv_groups.size())
      << "group " << event.group << " has pools for " << event.num_blocks.size() << " KvGroups";
  GroupState& group = groups[event.group];
  if (event.epoch <= group.epoch && group.blocks != nullptr) return;
  if (group.ready) LoseGroup(group);
  group.id = event.group;
  group.model = event.model;
  group.epoch = event.epoch;
  group.ready = true;
  group.blocks = std::make_unique<BlockManager>(options.block_size, event.num_blocks);
  group.last_step = 0;
  group.last_plan_time = now;
  group.last_progress = now;
  // A smaller group may have come back: who fits nowhere any more must not wait for ever.
  std::vector<Sequence*> hopeless;
  for (const auto& [ticket, sequence] : waiting[event.model]) {
    if (!CanEverFit(event.model, sequence->num_kv_tokens_max(), /*ready_only=*/false)) {
      hopeless.push_back(sequence);
    }
  }
  for (Sequence* sequence : hopeless) {
    const bool started = sequence->first_scheduled != absl::InfiniteFuture();
    End(*sequence, started ? FinishReason::kError : FinishReason::kRejected, NeverFits(*sequence),
        static_cast<int64_t>(sequence->output.size()));
  }
}

void Scheduler::State::OnGroupLost(const GroupLost& event) {
  GroupState* group = FindCurrent(event.group, event.epoch);
  if (group != nullptr) LoseGroup(*group);
}

}  // namespace tessera
