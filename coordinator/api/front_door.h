// What every handler, HTTP or gRPC, needs to serve a request: the models, the engine, time,
// randomness, metrics, and whether the doors are open. One per ApiServer; any thread.

#ifndef TESSERA_COORDINATOR_API_FRONT_DOOR_H_
#define TESSERA_COORDINATOR_API_FRONT_DOOR_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/generation.h"
#include "coordinator/api/random_source.h"
#include "coordinator/api/readiness.h"
#include "coordinator/api/served_model.h"
#include "coordinator/engine/engine.h"
#include "coordinator/telemetry/metrics.h"

namespace tessera::api {

struct FrontDoor {
  const std::vector<ServedModel> models;
  Engine& engine;
  const Clock& clock;
  Metrics& metrics;
  const std::string version;
  const absl::Time started;
  const absl::Duration progress_deadline;
  RandomSource random;
  std::atomic<bool> draining{false};

  // NOT_FOUND lists the models there are. An empty name means the only one.
  absl::StatusOr<const ServedModel*> FindModel(const std::string& name) const;
  // Asked before any work on a generation: UNAVAILABLE once a drain has begun, INVALID_ARGUMENT
  // naming the parameter that is out of its range.
  absl::Status Admit(const ServedModel& model, const GenerateParams& params) const;
  ReadinessReport Judge() const;
  // Makes the Request of admitted parameters and submits it. `id_prefix`: "chatcmpl-", "cmpl-".
  absl::StatusOr<std::unique_ptr<Generation>> Generate(
      const ServedModel& model, const GenerateParams& params, std::vector<int32_t> prompt,
      absl::Time arrival, const std::string& id_prefix, std::function<void()> wake);
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_FRONT_DOOR_H_
