// GET /readyz: 200 while every model has a group that makes progress, 503 with the reasons
// otherwise.

#include <nlohmann/json.hpp>
#include <string>

#include "coordinator/api/http/routes.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {

void HandleReady(FrontDoor& door, HttpCall& call) {
  const ReadinessReport report = door.Judge();
  nlohmann::ordered_json json;
  json["ready"] = report.ready;
  json["draining"] = report.draining;
  json["models"] = nlohmann::ordered_json::array();
  for (const ServedModel& model : door.models) {
    const ModelReadiness& judged = report.models[model.index];
    nlohmann::ordered_json entry;
    entry["name"] = model.name;
    entry["ready"] = judged.ready;
    if (!judged.ready) entry["reason"] = judged.reason;
    json["models"].push_back(std::move(entry));
  }
  HttpReply reply;
  reply.status = report.ready ? 200 : 503;
  reply.body = json.dump();
  if (!report.ready) {
    reply.headers.emplace_back("retry-after", std::to_string(kRetryAfterSeconds));
  }
  call.Reply(std::move(reply));
}

}  // namespace tessera::api
