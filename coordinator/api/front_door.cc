// The common part of all handlers, see front_door.h.

#include "coordinator/api/front_door.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {

absl::StatusOr<const ServedModel*> FrontDoor::FindModel(const std::string& name) const {
  if (name.empty()) {
    if (models.size() == 1) return &models.front();
    return BadParam("model", "must name one of the served models");
  }
  for (const ServedModel& model : models) {
    if (model.name == name) return &model;
  }
  const std::string served =
      absl::StrJoin(models, ", ", [](std::string* out, const ServedModel& model) {
        absl::StrAppend(out, "`", model.name, "`");
      });
  return WithCode(
      WithParam(absl::NotFoundError(absl::StrCat("model `", name.substr(0, 128),
                                                 "` is not served here; there is ", served)),
                "model"),
      "model_not_found");
}

absl::Status FrontDoor::Admit(const ServedModel& model, const GenerateParams& params) const {
  if (draining.load(std::memory_order_relaxed)) {
    return absl::UnavailableError("the server is draining and takes no new requests");
  }
  return ValidateParams(params, model);
}

ReadinessReport FrontDoor::Judge() const {
  SchedulerStats stats = engine.Stats();
  stats.draining = stats.draining || draining.load(std::memory_order_relaxed);
  return JudgeReadiness(stats, models.size(), clock.Now(), progress_deadline);
}

absl::StatusOr<std::unique_ptr<Generation>> FrontDoor::Generate(
    const ServedModel& model, const GenerateParams& params, std::vector<int32_t> prompt,
    absl::Time arrival, const std::string& id_prefix, std::function<void()> wake) {
  RequestIdentity identity;
  identity.id = engine.NextRequestId();
  identity.public_id = random.NextId(id_prefix);
  identity.arrival = arrival;
  identity.drawn_seed = random.Next();
  TESSERA_ASSIGN_OR_RETURN(auto request,
                           MakeRequest(model, params, std::move(prompt), std::move(identity)));
  return Generation::Start(engine, model, params, std::move(request), std::move(wake));
}

}  // namespace tessera::api
