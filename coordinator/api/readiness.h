// Health is progress: a model is ready when one of its groups is, and that group finished a step or
// a heartbeat plan within its deadline. One answer for /readyz, gRPC health and metrics. Any
// thread.

#ifndef TESSERA_COORDINATOR_API_READINESS_H_
#define TESSERA_COORDINATOR_API_READINESS_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/sched/scheduler.h"

namespace tessera::api {

struct ModelReadiness {
  bool ready = false;
  std::string reason;  // why not
};

struct ReadinessReport {
  bool ready = false;  // every model is, and no drain has begun
  bool draining = false;
  std::vector<ModelReadiness> models;  // in the coordinator's order
};

// The rule itself, pure.
ReadinessReport JudgeReadiness(const SchedulerStats& stats, size_t num_models, absl::Time now,
                               absl::Duration progress_deadline);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_READINESS_H_
