// The product with a virtual clock: the production scheduler, block manager and life of groups,
// between a simulated engine loop, simulated streams and simulated workers. One thread, no real
// time, everything from one seed. The capacity planner and the simulation test run this; neither is
// known here.

#ifndef TESSERA_COORDINATOR_SIM_SIMULATION_H_
#define TESSERA_COORDINATOR_SIM_SIMULATION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/cluster/group_manager.h"
#include "coordinator/sched/event.h"
#include "coordinator/sched/scheduler.h"
#include "coordinator/sim/cluster.h"
#include "coordinator/sim/engine.h"
#include "coordinator/sim/event_queue.h"
#include "coordinator/sim/fabric.h"
#include "coordinator/sim/pipe.h"
#include "coordinator/sim/worker.h"

namespace tessera::sim {

struct SimulationOptions {
  uint64_t seed = 1;  // of times and delays
  SchedulerOptions scheduler;
  GroupManagerOptions cluster;
  std::vector<WorkerOptions> workers;
  LinkModel link;
  absl::Duration turn_time = absl::Microseconds(20);  // of the engine
};

struct SimulationHooks {
  RankFactory ranks;            // what steps contain
  Engine::Observers observers;  // `updates` must be set
  NoticeSink notice;            // may be empty
  FateHook fate;                // may be empty
};

class Simulation {
 public:
  Simulation(SimulationOptions options, SimulationHooks hooks);

  // Workers start and the cluster ticks.
  void Start();
  // To the scheduler, at its next turn.
  void Post(Event event) { engine_.Post(std::move(event)); }
  EventQueue& queue() { return queue_; }
  absl::Time Now() const { return queue_.Now(); }
  const Scheduler& scheduler() const { return engine_.scheduler(); }
  size_t num_workers() const { return workers_.size(); }
  Worker& worker(size_t index) { return *workers_.at(index); }

 private:
  EventQueue queue_;
  Wire wire_;
  Fabric fabric_;
  const RankFactory ranks_;
  Cluster cluster_;
  Engine engine_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace tessera::sim

#endif  // TESSERA_COORDINATOR_SIM_SIMULATION_H_
