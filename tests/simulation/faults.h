// What goes wrong in one life: hooks for messages and steps, and events in the cluster at random
// moments of the fault phase. After Stop nothing more goes wrong, and what was broken is mended.

#ifndef TESSERA_TESTS_SIMULATION_FAULTS_H_
#define TESSERA_TESTS_SIMULATION_FAULTS_H_

#include <cstdint>
#include <map>
#include <optional>

#include "coordinator/sched/event.h"
#include "coordinator/sim/random.h"
#include "coordinator/sim/simulation.h"
#include "tests/simulation/scenario.h"
#include "tests/simulation/workload.h"

namespace tessera::simulation {

class Faults {
 public:
  Faults(const Scenario& scenario, sim::Random random) : rates_(scenario.faults), random_(random) {}

  // Hooks of the simulation.
  sim::MessageFate Fate(sim::MessageKind kind);
  // A step of a rank fails for want of memory.
  bool IsOutOfMemory();
  // For later replay as stale ones.
  void Remember(const StepDone& done);
  void Remember(const cluster::v1::StepPlan& plan);

  // Puts everything that will go wrong into the queue.
  void Start(const Scenario& scenario, sim::Simulation& simulation, Workload& workload);
  void Stop();
  int num_hits() const { return num_hits_; }

 private:
  template <typename Fault>
  void Schedule(double per_second, Fault fault);
  sim::Worker& Somebody();
  void SendStale();
  void Reload();
  absl::Duration RestartTime();

  cluster::v1::StepResult OfEarlierTerm();

  const FaultRates rates_;
  sim::Random random_;
  bool stopped_ = false;
  int num_hits_ = 0;
  sim::Simulation* simulation_ = nullptr;  // set by Start, as the following
  Workload* workload_ = nullptr;
  absl::Duration phase_;
  std::optional<StepDone> old_done_;
  std::optional<cluster::v1::StepPlan> old_plan_;
  std::optional<cluster::v1::StepPlan> last_plan_;
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_FAULTS_H_
