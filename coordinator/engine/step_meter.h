// Metrics of steps, ranks, groups and queues, from what passes through the engine: StepDone for
// what was computed, GroupReady and GroupLost for which model a group serves and whether, the
// scheduler's figures for the gauges. Engine thread only.

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
    bool ready = false;
    prometheus::Histogram* skew = nullptr;  // from the first step of several ranks on
    uint64_t forecasts = 0;                 // seen
  };

  void CountModel(const ModelStats& stats, ModelStats& counted, ModelMetrics& metrics);
  void ObserveStep(const StepDone& done, absl::Time now);
  void ObserveRank(const cluster::v1::StepResult& result, absl::Time now);
  void ObserveSkew(const StepDone& done, Group& group);
  void ObserveBlocks(const SchedulerStats& stats);
  void ObserveForecast(const GroupStats& stats);

  Metrics& metrics_;
  absl::flat_hash_map<uint32_t, Group> groups_;
  std::vector<ModelStats> counted_;                    // what the counters have seen, by model
  std::vector<std::vector<KvBlockGauges>> kv_blocks_;  // by model and KvGroup
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ENGINE_STEP_METER_H_
