// The common part of all handlers, see front_door.h.

#include "coordinator/api/front_door.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

constexpr char kNeedsKey[] =
    "a valid API key is needed, as the header `Authorization: Bearer <key>`";

// What follows "Bearer ", "" where the header holds something else.
std::string_view BearerToken(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (!absl::StartsWithIgnoreCase({authorization.data(), authorization.size()},
                                  {kScheme.data(), kScheme.size()})) {
    return {};
  }
  const absl::string_view token = absl::StripAsciiWhitespace(
      absl::string_view(authorization.data(), authorization.size()).substr(kScheme.size()));
  return {token.data(), token.size()};
}

}  // namespace

absl::StatusOr<Caller> FrontDoor::Identify(std::string_view authorization) const {
  if (!authenticate) return anyone;
  auto caller = authenticate(BearerToken(authorization));
  if (caller.ok() || !absl::IsUnauthenticated(caller.status())) return caller;
  return absl::UnauthenticatedError(kNeedsKey);
}

absl::StatusOr<const ServedModel*> FrontDoor::FindModel(const std::string& name,
                                                        const Caller& caller) const {
  std::vector<const ServedModel*> usable;
  for (const ServedModel& model : models) {
    if (caller.MayUse(model.name)) usable.push_back(&model);
  }
  if (name.empty()) {
    if (usable.size() == 1) return usable.front();
    return BadParam("model", "must name one of the served models");
  }
  for (const ServedModel* model : usable) {
    if (model->name == name) return model;
  }
  const std::string served =
      absl::StrJoin(usable, ", ", [](std::string* out, const ServedModel* model) {
        absl::StrAppend(out, "`", model->name, "`");
      });
  return WithCode(WithParam(absl::NotFoundError(absl::StrCat("model `", name.substr(0, 128),
                                                             "` is not served here; there is ",
                                                             served.empty() ? "none" : served)),
                            "model"),
                  "model_not_found");
}

absl::Status FrontDoor::Admit(const ServedModel& model, const GenerateParams& params,
                              const Caller& caller) const {
  if (draining.load(std::memory_order_relaxed)) {
    return absl::UnavailableError("the server is draining and takes no new requests");
  }
  TESSERA_RETURN_IF_ERROR(ValidateParams(params, model, caller));
  TESSERA_RETURN_IF_ERROR(lost_models->Check(model.index));
  // A full queue is refused here, before the work of templates and tokenizing.
  return engine.CheckRoom(model.index, caller.tenant);
}

ReadinessReport FrontDoor::Judge() const {
  SchedulerStats stats = engine.Stats();
  stats.draining = stats.draining || draining.load(std::memory_order_relaxed);
  ReadinessReport report = JudgeReadiness(stats, models.size(), clock.Now(), progress_deadline);
  for (const ServedModel& model : models) {
    const absl::Status lost = lost_models->Check(model.index);
    if (lost.ok()) continue;
    report.ready = false;
    report.models[model.index] = {.ready = false, .reason = std::string(lost.message())};
  }
  return report;
}

absl::StatusOr<Prompt> FrontDoor::ChatPrompt(const ServedModel& model,
                                             const std::vector<ChatTurn>& turns,
                                             const Caller& caller) const {
  const absl::Time now = clock.Now();
  Prompt prompt;
  TESSERA_ASSIGN_OR_RETURN(prompt.ids, PromptFromChat(model, turns, now));
  if (caller.share_system_prompt) {
    prompt.num_shared_tokens = CountSystemTokens(model, turns, prompt.ids, now);
  }
  return prompt;
}

absl::StatusOr<std::unique_ptr<Generation>> FrontDoor::Generate(
    const ServedModel& model, const GenerateParams& params, const Caller& caller, Prompt prompt,
    absl::Time arrival, const std::string& id_prefix, std::function<void()> wake) {
  RequestIdentity identity;
  identity.id = engine.NextRequestId();
  identity.public_id = random.NextId(id_prefix);
  identity.arrival = arrival;
  // Clients that hold JSON numbers as doubles must be able to send it back: 53 bits.
  identity.drawn_seed = random.Next() >> 11;
  TESSERA_ASSIGN_OR_RETURN(
      auto request, MakeRequest(model, params, caller, std::move(prompt), std::move(identity)));
  TenantLimits::Lease lease;
  if (limits != nullptr) {
    const int64_t output =
        params.prompt_only ? 0
                           : int64_t{request->sampling.max_tokens} * request->sampling.num_choices;
    const int64_t tokens = static_cast<int64_t>(request->prompt.size()) + output;
    TESSERA_ASSIGN_OR_RETURN(lease, limits->TryAdmit(caller.tenant, tokens, clock.Now()));
  }
  return Generation::Start(engine, lost_models, model, params, std::move(request), std::move(lease),
                           std::move(wake));
}

std::optional<CostReport> FrontDoor::CostOf(const Request& request, const Usage& usage) const {
  if (pricing == nullptr) return std::nullopt;
  UsageRecord record;
  record.model = models[request.model].name;
  record.arrival = request.arrival;
  record.prompt_tokens = usage.prompt_tokens;
  record.cached_tokens = usage.cached_tokens;
  record.work = usage.work;
  record.energy_joules = pricing->RatedEnergy(record);
  return CostReport{
      .cost = pricing->CostOf(record), .work = record.work, .energy_joules = record.energy_joules};
}

}  // namespace tessera::api
