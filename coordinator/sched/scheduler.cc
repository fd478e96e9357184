// The scheduler's surface: events in, plans and updates out. What happens inside is in
// scheduler_*.cc and plan_builder.cc.

#include "coordinator/sched/scheduler.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "base/check.h"
#include "coordinator/sched/scheduler_state.h"

namespace tessera {
namespace {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

}  // namespace

Scheduler::Scheduler(SchedulerOptions options)
    : state_(std::make_unique<State>(std::move(options))) {}
Scheduler::~Scheduler() = default;

void Scheduler::Apply(const Event& event, absl::Time now) {
  State& state = *state_;
  std::visit(Overloaded{
                 [&](const NewRequest& e) { state.OnNewRequest(e, now); },
                 [&](const Cancel& e) { state.OnCancel(e); },
                 [&](const StepDone& e) { state.OnStepDone(e, now); },
                 [&](const TextStop& e) { state.OnTextStop(e); },
                 [&](const TextEnd& e) { state.OnTextEnd(e); },
                 [&](const MaskReady& e) {
                   TESSERA_CHECK(false) << "request " << e.request << " waits for no mask";
                 },
                 [&](const GroupReady& e) { state.OnGroupReady(e, now); },
                 [&](const GroupLost& e) { state.OnGroupLost(e); },
                 [&](const Drain&) { state.draining = true; },
                 [](const Tick&) {},
                 [&](const SetTenants& e) { state.OnSetTenants(e); },
             },
             event);
}

std::vector<cluster::v1::StepPlan> Scheduler::Schedule(absl::Time now) {
  State& state = *state_;
  state.ExpireDeadlines(now);
  for (uint32_t model = 0; model < state.models.size(); ++model) state.Admit(model, now);
  std::vector<cluster::v1::StepPlan> plans;
  for (auto& [id, group] : state.groups) {
    while (group.ready &&
           static_cast<int>(group.in_flight.size()) < state.options.plans_in_flight_max) {
      cluster::v1::StepPlan plan;
      if (!state.BuildPlan(group, now, plan)) break;
      plans.push_back(std::move(plan));
    }
  }
  return plans;
}

void Scheduler::TakeUpdates(std::vector<RequestUpdate>& updates) {
  updates.clear();
  updates.swap(state_->updates);
}

SchedulerStats Scheduler::Stats() const {
  SchedulerStats stats;
  stats.draining = state_->draining;
  for (const auto& model : state_->models) {
    ModelStats& out = stats.models.emplace_back(model->counted);
    out.waiting = model->queue.size();
    out.waiting_tokens = model->queue.waiting_tokens();
    if (model->recent_seconds > 0) {
      out.tokens_per_second = model->recent_tokens / model->recent_seconds;
      out.choices_per_second = model->recent_ends / model->recent_seconds;
    }
    stats.waiting += out.waiting;
  }
  for (const auto& [id, group] : state_->groups) {
    GroupStats& out = stats.groups.emplace_back();
    out.group = id;
    out.model = group.model;
    out.ready = group.ready;
    out.steps = group.steps;
    out.running = static_cast<int64_t>(group.running.size());
    out.last_progress = group.last_progress;
    out.forecast = group.forecast;
    stats.running += out.running;
    ModelStats& model = stats.models[group.model];
    // Only until it is known how fast answers end: it looks at everyone.
    if (model.choices_per_second == 0) {
      for (const Sequence* sequence : group.running) {
        const int64_t left = sequence->num_tokens_max - sequence->num_tokens();
        const bool is_first = model.running == 0 && sequence == group.running.front();
        model.remaining_min = is_first ? left : std::min(model.remaining_min, left);
      }
    }
    model.running += out.running;
    for (int g = 0; g < group.blocks->num_groups(); ++g) {
      out.blocks_total.push_back(group.blocks->total(g));
      out.blocks_free.push_back(group.ready ? group.blocks->free(g) : 0);
      out.blocks_cached.push_back(group.ready ? group.blocks->cached(g) : 0);
    }
  }
  return stats;
}

absl::Time Scheduler::NextWakeup() const {
  absl::Time next = absl::InfiniteFuture();
  if (!state_->deadlines.empty()) next = state_->deadlines.begin()->first;
  for (const auto& [id, group] : state_->groups) {
    if (!group.ready || !group.in_flight.empty()) continue;
    next = std::min(next, group.last_plan_time + state_->options.heartbeat_interval);
  }
  return next;
}

}  // namespace tessera
