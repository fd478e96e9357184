// The engine's loop without its thread: what coordinator/engine/engine.cc does in a turn, under
// virtual time. Events wait until the turn that takes them; a turn happens when something has come,
// when the scheduler wants one, and at least every second.

#ifndef TESSERA_COORDINATOR_SIM_ENGINE_H_
#define TESSERA_COORDINATOR_SIM_ENGINE_H_

#include <functional>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/ledger/book/ledger.h"
#include "coordinator/sched/event.h"
#include "coordinator/sched/scheduler.h"
#include "coordinator/sched/step_executor.h"
#include "coordinator/sim/event_queue.h"

namespace tessera::sim {

class Engine {
 public:
  // All but `updates` may be empty.
  struct Observers {
    std::function<void(const Event&)> event;  // before the scheduler applies it
    std::function<void(const cluster::v1::StepPlan&)> plan;
    std::function<void(std::vector<RequestUpdate>)> updates;
    std::function<void(std::vector<ClosedAccount>)> accounts;
    LedgerSinks ledger;
    std::function<void()> turn;  // at the end of each
  };

  // A turn begins `turn_time` after the first event that it takes.
  Engine(SchedulerOptions options, EventQueue& queue, absl::Duration turn_time,
         StepExecutor& executor, Observers observers);

  void Start();
  void Post(Event event);
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  void WantTurn(absl::Time time);
  void Turn();

  EventQueue& queue_;
  const absl::Duration turn_time_;
  StepExecutor& executor_;
  const Observers observers_;
  Scheduler scheduler_;
  Ledger ledger_;
  absl::Time ledger_due_ = absl::InfinitePast();
  std::vector<Event> inbox_;
  absl::Time next_turn_ = absl::InfiniteFuture();
};

}  // namespace tessera::sim

#endif  // TESSERA_COORDINATOR_SIM_ENGINE_H_
