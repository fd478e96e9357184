// GET /v1/models and /v1/models/{id}.

#include <nlohmann/json.hpp>

#include "coordinator/api/http/routes.h"

namespace tessera::api {
namespace {

nlohmann::ordered_json ModelJson(const FrontDoor& door, const ServedModel& model, bool ready) {
  nlohmann::ordered_json json;
  json["id"] = model.name;
  json["object"] = "model";
  json["created"] = absl::ToUnixSeconds(door.started);
  json["owned_by"] = "tessera";
  json["max_model_len"] = model.context_max;
  json["architecture"] = model.spec.architecture;
  json["parameters"] = ParameterCount(model.spec);
  json["dtype"] = DTypeName(model.dtype);
  json["tensor_parallel"] = model.tensor_parallel;
  json["license"] = model.license;
  json["ready"] = ready;
  return json;
}

}  // namespace

void HandleModels(FrontDoor& door, HttpCall& call) {
  const ReadinessReport report = door.Judge();
  nlohmann::ordered_json json;
  json["object"] = "list";
  json["data"] = nlohmann::ordered_json::array();
  for (const ServedModel& model : door.models) {
    if (!call.request().caller.MayUse(model.name)) continue;
    json["data"].push_back(ModelJson(door, model, report.models[model.index].ready));
  }
  call.Reply({.status = 200, .body = json.dump()});
}

void HandleModel(FrontDoor& door, HttpCall& call) {
  const auto model = door.FindModel(call.path_parameter(), call.request().caller);
  if (!model.ok()) return call.ReplyError(model.status());
  const bool ready = door.Judge().models[(*model)->index].ready;
  call.Reply({.status = 200, .body = ModelJson(door, **model, ready).dump()});
}

}  // namespace tessera::api
