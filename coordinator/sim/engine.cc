// See the header.

#include "coordinator/sim/engine.h"

#include <algorithm>
#include <utility>

namespace tessera::sim {
namespace {

constexpr absl::Duration kWaitMax = absl::Seconds(1);  // as the engine's thread

}  // namespace

Engine::Engine(SchedulerOptions options, EventQueue& queue, absl::Duration turn_time,
               StepExecutor& executor, Observers observers)
    : queue_(queue),
      turn_time_(turn_time),
      executor_(executor),
      observers_(std::move(observers)),
      scheduler_(std::move(options)),
      ledger_({}, observers_.ledger) {}

void Engine::Start() { WantTurn(queue_.Now()); }

void Engine::Post(Event event) {
  inbox_.push_back(std::move(event));
  WantTurn(queue_.Now() + turn_time_);
}

void Engine::WantTurn(absl::Time time) {
  if (next_turn_ <= time) return;
  next_turn_ = time;
  queue_.At(time, [this, time] {
    // An earlier turn has taken its place.
    if (next_turn_ == time) Turn();
  });
}

void Engine::Turn() {
  next_turn_ = absl::InfiniteFuture();
  const absl::Time now = queue_.Now();
  for (const Event& event : std::exchange(inbox_, {})) {
    if (observers_.event) observers_.event(event);
    scheduler_.Apply(event, now);
    ledger_.Observe(event, scheduler_, now);
  }
  for (cluster::v1::StepPlan& plan : scheduler_.Schedule(now)) {
    if (observers_.plan) observers_.plan(plan);
    ledger_.OnPlan(plan, now);
    executor_.Submit(std::move(plan));
  }
  std::vector<RequestUpdate> updates;
  scheduler_.TakeUpdates(updates);
  observers_.updates(std::move(updates));
  std::vector<ClosedAccount> accounts = scheduler_.TakeAccounts();
  if (observers_.accounts) observers_.accounts(std::move(accounts));
  if (now >= ledger_due_) {
    ledger_.Settle(scheduler_, now);
    ledger_due_ = now + kLedgerInterval;
  }
  if (observers_.turn) observers_.turn();
  WantTurn(std::clamp(scheduler_.NextWakeup(), now + turn_time_, now + kWaitMax));
}

}  // namespace tessera::sim
