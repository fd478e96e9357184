// GET /console/state: what the console shows of groups, KV blocks and queues, in one answer. Made
// of the engine's last snapshot, on the I/O thread; the engine is not asked for anything more.

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/api/http/routes.h"

namespace tessera::api {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr size_t kConsoleGroupsMax = 256;   // the first ones are shown
constexpr size_t kConsoleTenantsMax = 256;  // the busiest ones are shown

OrderedJson ModelState(const ServedModel& model, const ModelReadiness& judged,
                       const ModelStats& stats) {
  OrderedJson json;
  json["name"] = model.name;
  json["ready"] = judged.ready;
  if (!judged.ready) json["reason"] = judged.reason;
  json["architecture"] = model.spec.architecture;
  json["dtype"] = DTypeName(model.dtype);
  json["tensor_parallel"] = model.tensor_parallel;
  json["context_max"] = model.context_max;
  json["running"] = stats.running;
  json["waiting"] = stats.waiting;
  json["waiting_tokens"] = stats.waiting_tokens;
  json["preemptions"] = stats.preemptions;
  return json;
}

OrderedJson GroupState(const GroupStats& group, const std::string& model, absl::Time now) {
  OrderedJson json;
  json["group"] = group.group;
  json["model"] = model;
  json["ready"] = group.ready;
  json["steps"] = group.steps;
  json["running"] = group.running;
  json["silent_seconds"] =
      std::max(0.0, absl::ToDoubleSeconds(now - std::max(group.last_progress, absl::UnixEpoch())));
  if (group.forecast.count > 0) {
    json["last_step"] = {{"predicted_seconds", group.forecast.predicted_seconds},
                         {"measured_seconds", group.forecast.measured_seconds}};
  }
  json["kv"] = OrderedJson::array();
  for (size_t g = 0; g < group.blocks_total.size(); ++g) {
    OrderedJson kv;
    kv["total"] = group.blocks_total[g];
    kv["held"] = group.blocks_total[g] - group.blocks_free[g];
    kv["cached"] = group.blocks_cached[g];
    json["kv"].push_back(std::move(kv));
  }
  return json;
}

OrderedJson TenantStates(const FrontDoor& door, size_t* left_out) {
  OrderedJson json = OrderedJson::array();
  if (door.limits == nullptr) return json;
  std::vector<TenantLimits::InFlight> tenants = door.limits->ListInFlight();
  std::sort(tenants.begin(), tenants.end(), [](const auto& a, const auto& b) {
    return std::pair(-a.requests, a.tenant) < std::pair(-b.requests, b.tenant);
  });
  *left_out = tenants.size() - std::min(tenants.size(), kConsoleTenantsMax);
  tenants.resize(tenants.size() - *left_out);
  for (TenantLimits::InFlight& tenant : tenants) {
    OrderedJson entry;
    entry["tenant"] = std::move(tenant.tenant);
    entry["in_flight"] = tenant.requests;
    json.push_back(std::move(entry));
  }
  return json;
}

}  // namespace

void HandleConsoleState(FrontDoor& door, HttpCall& call) {
  const Caller& caller = call.request().caller;
  const absl::Time now = door.clock.Now();
  const SchedulerStats stats = door.engine.Stats();
  const ReadinessReport report = door.Judge();
  OrderedJson json;
  json["version"] = door.version;
  json["time"] = absl::ToDoubleSeconds(now - absl::UnixEpoch());
  json["uptime_seconds"] = absl::ToDoubleSeconds(now - door.started);
  json["ready"] = report.ready;
  json["draining"] = report.draining;
  json["models"] = OrderedJson::array();
  for (const ServedModel& model : door.models) {
    if (!caller.MayUse(model.name) || model.index >= stats.models.size()) continue;
    json["models"].push_back(
        ModelState(model, report.models[model.index], stats.models[model.index]));
  }
  json["groups"] = OrderedJson::array();
  size_t groups_left_out = 0;
  for (const GroupStats& group : stats.groups) {
    const std::string& model = door.models.at(group.model).name;
    if (!caller.MayUse(model)) continue;
    if (json["groups"].size() < kConsoleGroupsMax) {
      json["groups"].push_back(GroupState(group, model, now));
    } else {
      ++groups_left_out;
    }
  }
  size_t tenants_left_out = 0;
  json["tenants"] = TenantStates(door, &tenants_left_out);
  json["left_out"] = {{"groups", groups_left_out}, {"tenants", tenants_left_out}};
  call.Reply({.status = 200,
              .body = json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace),
              .headers = {{"cache-control", "no-store"}}});
}

}  // namespace tessera::api
