// What every handler, HTTP or gRPC, needs to serve a request: who may call, the models, the engine,
// time, randomness, metrics, and whether the doors are open. One per ApiServer; any thread.

#ifndef TESSERA_COORDINATOR_API_FRONT_DOOR_H_
#define TESSERA_COORDINATOR_API_FRONT_DOOR_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/audit.h"
#include "coordinator/api/body_budget.h"
#include "coordinator/api/cost_report.h"
#include "coordinator/api/generation.h"
#include "coordinator/api/lost_models.h"
#include "coordinator/api/prompt.h"
#include "coordinator/api/random_source.h"
#include "coordinator/api/readiness.h"
#include "coordinator/api/served_model.h"
#include "coordinator/engine/engine.h"
#include "coordinator/ledger/pricing.h"
#include "coordinator/telemetry/metrics.h"
#include "coordinator/tenants/caller.h"
#include "coordinator/tenants/tenant_limits.h"

namespace tessera::api {

struct FrontDoor {
  const std::vector<ServedModel> models;
  Engine& engine;
  const Clock& clock;
  Metrics& metrics;
  const std::string version;
  const absl::Time started;
  const absl::Duration progress_deadline;
  const Authenticate authenticate;  // unset: everybody is `anyone`
  TenantLimits* const limits;       // null: none
  const Pricing* const pricing;     // null: answers say nothing about cost
  AuditLog* const audit;            // null: nothing is audited
  const std::shared_ptr<BodyBudget> bodies;
  const std::shared_ptr<LostModels> lost_models;
  RandomSource random;
  const Caller anyone;
  std::atomic<bool> draining{false};
  bool console = false;  // served at /; set before the doors open

  // Before any other work. `authorization`: that header's value, "" without one. Every refusal for
  // want of a key reads the same.
  absl::StatusOr<Caller> Identify(std::string_view authorization) const;
  // NOT_FOUND lists the models there are for this caller. An empty name means the only one.
  absl::StatusOr<const ServedModel*> FindModel(const std::string& name, const Caller& caller) const;
  // Asked before any work on a generation: UNAVAILABLE once a drain has begun and for a lost model,
  // INVALID_ARGUMENT naming the parameter that is out of its range.
  absl::Status Admit(const ServedModel& model, const GenerateParams& params,
                     const Caller& caller) const;
  ReadinessReport Judge() const;
  // The prompt of a conversation.
  absl::StatusOr<Prompt> ChatPrompt(const ServedModel& model, const std::vector<ChatTurn>& turns,
                                    const Caller& caller) const;
  // Makes the Request of admitted parameters, asks the tenant's limits, and submits it.
  // `id_prefix`: "chatcmpl-", "cmpl-".
  absl::StatusOr<std::unique_ptr<Generation>> Generate(
      const ServedModel& model, const GenerateParams& params, const Caller& caller, Prompt prompt,
      absl::Time arrival, const std::string& id_prefix, std::function<void()> wake);
  // What a request that has ended cost; nothing where answers say nothing about cost.
  std::optional<CostReport> CostOf(const Request& request, const Usage& usage) const;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_FRONT_DOOR_H_
