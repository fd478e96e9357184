// Metrics of steps, ranks and queues, from what passes through the engine: StepDone for what was
// computed, GroupReady for which model a group serves, the scheduler's figures for the gauges.
// Engine thread only.

#ifndef TESSERA_COORDINATOR_ENGINE_STEP_METER_H_
#define TESSERA_COORDINATOR_ENGINE_STEP_METER_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "coordinator/sched/scheduler.h"
#include "coordinator/telemetry/metrics.h"

namespace tessera {

class StepMeter {
 public:
  explicit StepMeter(Metrics& metrics) : metrics_(metrics) {}

  // Before the scheduler applies the event.
  void Observe(const Event& event, absl::Time now);
  // After each turn of the loop.
  void Observe(const SchedulerStats& stats);

 private:
  struct Group {
    uint32_t model = 0;
    uint64_t epoch = 0;
    uint64_t last_step = 0;  // counted
  };

  void CountModel(const ModelStats& stats, ModelStats& counted, ModelMetrics& metrics);
  void ObserveStep(const StepDone& done, absl::Time now);
  void ObserveRank(const cluster::v1::StepResult& result, absl::Time now);

  Metrics& metrics_;
  absl::flat_hash_map<uint32_t, Group> groups_;
  std::vector<ModelStats> counted_;  // what the counters have seen, by model
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ENGINE_STEP_METER_H_
