// How choices and requests end, how sequences leave a group, and how a group is lost; see
// scheduler_state.h.

#include "coordinator/sched/scheduler_state.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tessera {

Scheduler::State::State(SchedulerOptions options_in) : options(std::move(options_in)) {
  TESSERA_CHECK(options.block_size >= 1 && options.chunk_max >= 1 && options.waiting_max >= 1);
  TESSERA_CHECK(options.rows_max >= 1 && options.rows_max <= kPlanRowsMax);
  TESSERA_CHECK(options.tokens_max >= options.rows_max)
      << "tokens_max " << options.tokens_max << " must be at least rows_max " << options.rows_max
      << ", so that every running sequence gets on";
  TESSERA_CHECK(options.plans_in_flight_max == 1 || options.plans_in_flight_max == 2)
      << "a token is taken from the step before, so at most one plan waits behind another";
  TESSERA_CHECK(options.heartbeat_interval > absl::ZeroDuration());
  TESSERA_CHECK(options.priority_ageing > absl::ZeroDuration());
  for (size_t i = 0; i < options.models.size(); ++i) {
    models.push_back(std::make_unique<ModelState>(options.priority_ageing));
  }
}

RequestState* Scheduler::State::Find(RequestId request) const {
  const auto found = requests.find(request);
  return found == requests.end() ? nullptr : found->second.get();
}

SequencePtr Scheduler::State::NewSequence(RequestState& request, uint32_t choice) {
  const SchedulerModel& model = options.models[request.request->model];
  std::pmr::polymorphic_allocator<Sequence> allocator(&sequence_pool);
  return SequencePtr(
      allocator.new_object<Sequence>(request, choice, model.context_max, model.rope_switch),
      SequenceDeleter{&sequence_pool});
}

GroupState* Scheduler::State::FindCurrent(uint32_t group, uint64_t epoch) {
  const auto found = groups.find(group);
  if (found == groups.end() || !found->second.ready || found->second.epoch != epoch) return nullptr;
  return &found->second;
}

void Scheduler::State::LeaveGroup(Sequence& sequence, int64_t kept_tokens) {
  GroupState& group = *sequence.group;
  TenantState& tenant = sequence.request->tenant;
  if (!sequence.tables.empty()) {
    // Tokens past the end are never named.
    NameContent(sequence, std::min(sequence.num_computed_tokens, kept_tokens));
  }
  group.owed_tokens -= sequence.num_owed_tokens();
  group.num_slots -= sequence.num_slots();
  if (sequence.leaving) --group.num_leaving;
  group.has_left = true;
  group.blocks->Release(sequence.chosen_step, sequence.tables);
  if (sequence.chosen_step > 0) group.finished_ids.push_back(sequence.id);
  tenant.held_tokens -= group.blocks->KeptTokens(sequence.num_held_tokens);
  --tenant.num_running;
  ++models[group.model]->room_version;
}

void Scheduler::State::SweepRunning(GroupState& group) {
  if (!std::exchange(group.has_left, false)) return;
  std::erase_if(group.running, [&](const Sequence* sequence) {
    return sequence->status != SequenceStatus::kRunning;
  });
}

void Scheduler::State::ResetSequence(Sequence& sequence) {
  sequence.leaving = false;
  sequence.num_pending = 0;
  sequence.may_share = false;
  sequence.has_news = true;
  sequence.content_due = 0;
  sequence.scores_prompt = false;
  sequence.num_computed_before =
      std::max(sequence.num_computed_before, sequence.num_computed_tokens);
  sequence.recomputes = sequence.num_computed_before > 0;
  sequence.num_computed_tokens = 0;
  sequence.num_scheduled_tokens = 0;
  sequence.num_held_tokens = 0;
  sequence.num_shared_tokens = 0;
  sequence.num_content_blocks = 0;
  sequence.num_told_blocks = 0;
  sequence.id = 0;
  sequence.chosen_step = 0;
  sequence.last_plan = 0;
  sequence.group = nullptr;
  sequence.tables.clear();
  if (sequence.ChooseRope()) sequence.hashes.clear();
}

void Scheduler::State::Requeue(Sequence& sequence) {
  TESSERA_CHECK(sequence.rows_in_flight == 0 && sequence.status == SequenceStatus::kRunning);
  LeaveGroup(sequence, sequence.num_tokens());
  sequence.status = SequenceStatus::kWaiting;
  std::erase(sequence.group->running, &sequence);
  ResetSequence(sequence);
  ModelOf(sequence).queue.PushBack(sequence);
}

void Scheduler::State::LoseGroup(GroupState& group) {
  group.ready = false;
  for (const PlanInFlight& plan : std::exchange(group.in_flight, {})) {
    for (const PlannedRow& row : plan.rows) {
      ReleaseRow(*row.sequence);
    }
  }
  for (Sequence* sequence : std::exchange(group.running, {})) {
    TenantState& tenant = sequence->request->tenant;
    tenant.held_tokens -= group.blocks->KeptTokens(sequence->num_held_tokens);
    --tenant.num_running;
    sequence->status = SequenceStatus::kWaiting;
    ResetSequence(*sequence);
    ModelOf(*sequence).queue.PushBack(*sequence);
  }
  over.clear();
  group.finished_ids.clear();
  group.owed_tokens = 0;
  group.num_slots = 0;
  group.num_leaving = 0;
  group.has_left = false;
  ++models[group.model]->room_version;
}

void Scheduler::State::EndChoice(Sequence& sequence, FinishReason reason, int64_t output_tokens) {
  if (sequence.status == SequenceStatus::kWaiting) {
    ModelOf(sequence).queue.Erase(sequence);
  } else {
    LeaveGroup(sequence, sequence.num_prompt_tokens + output_tokens);
  }
  sequence.status = SequenceStatus::kEnded;
  sequence.reason = reason;
  sequence.num_output_tokens = output_tokens;
  RequestState& request = *sequence.request;
  ModelOf(sequence).lengths.Add(output_tokens);
  ++ModelOf(sequence).recent_ends;
  const bool all_ended =
      !request.sequences.front()->unforked &&
      std::all_of(request.sequences.begin(), request.sequences.end(),
                  [](const auto& choice) { return choice->status == SequenceStatus::kEnded; });
  // Nothing more is computed: what the deadline bounds is over.
  if (all_ended) deadlines.erase({request.request->deadline, request.id});
}

void Scheduler::State::Confirm(Sequence& sequence) {
  RequestState& request = *sequence.request;
  sequence.confirmed = true;
  if (++request.num_confirmed < request.request->sampling.num_choices) return;
  const bool any_stop =
      std::any_of(request.sequences.begin(), request.sequences.end(),
                  [](const auto& choice) { return choice->reason == FinishReason::kStop; });
  Finish(request, any_stop ? FinishReason::kStop : FinishReason::kLength, absl::OkStatus());
}

void Scheduler::State::Finish(RequestState& request, FinishReason reason, absl::Status error) {
  const bool is_whole = reason == FinishReason::kStop || reason == FinishReason::kLength;
  uint32_t output_tokens = 0;
  GroupState* left = nullptr;
  for (const auto& sequence : request.sequences) {
    const bool was_running = sequence->status == SequenceStatus::kRunning;
    if (sequence->status != SequenceStatus::kEnded) {
      TESSERA_CHECK(!is_whole) << "request " << request.id << " has choices that go on";
      sequence->num_output_tokens = sequence->num_output();
      if (was_running) {
        LeaveGroup(*sequence, sequence->num_tokens());
        left = sequence->group;
      } else {
        ModelOf(*sequence).queue.Erase(*sequence);
      }
      sequence->status = SequenceStatus::kEnded;
      if (was_running) SweepRunning(*left);
    }
    output_tokens += static_cast<uint32_t>(sequence->num_output_tokens);
    SettleWork(*sequence, /*is_final=*/true);
  }
  deadlines.erase({request.request->deadline, request.id});
  const bool joins_last = is_whole && request.request->sampling.num_choices == 1 &&
                          !updates.empty() && updates.back().request == request.id &&
                          updates.back().ended;
  RequestUpdate& update = joins_last ? updates.back() : updates.emplace_back();
  update.request = request.id;
  update.finished = true;
  update.reason = reason;
  RequestUpdate::Details& details = update.details.Make();
  details.error = std::move(error);
  details.prompt_tokens = static_cast<uint32_t>(request.num_prompt_tokens());
  details.output_tokens = output_tokens;
  details.cached_tokens = request.cached_tokens;
  details.work = request.work;
  details.first_scheduled = request.first_scheduled;
  request.finished = true;
  auto node = requests.extract(request.id);
  TESSERA_CHECK(!node.empty()) << "request " << request.id << " ends twice";
  if (request.HasRowsInFlight()) {
    finished_in_flight.emplace(&request, std::move(node.mapped()));
  } else {
    accounts.push_back({.request = request.id, .work = request.work});
  }
}

void Scheduler::State::ReleaseRow(Sequence& sequence) {
  --sequence.rows_in_flight;
  if (sequence.status != SequenceStatus::kEnded || sequence.rows_in_flight > 0) return;
  RequestState& request = *sequence.request;
  if (!request.finished || request.HasRowsInFlight()) return;
  auto node = finished_in_flight.extract(&request);
  TESSERA_CHECK(!node.empty()) << "request " << request.id << " was not kept";
  accounts.push_back({.request = request.id, .work = request.work});
  over.push_back(std::move(node.mapped()));
}

}  // namespace tessera
