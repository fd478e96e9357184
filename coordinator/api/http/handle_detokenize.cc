// POST /detokenize: {"model", "tokens"} -> {"prompt"}. Special tokens are written out.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "coordinator/api/http/routes.h"
#include "coordinator/api/json_request.h"
#include "coordinator/api/prompt.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

absl::StatusOr<std::string> AnswerDetokenize(FrontDoor& door, const HttpRequest& request) {
  TESSERA_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(request.body));
  const JsonFields fields(json);
  std::optional<std::string> name;
  std::vector<int32_t> tokens;
  TESSERA_RETURN_IF_ERROR(fields.Read("model", &name));
  if (fields.Find("tokens") == nullptr) return BadParam("tokens", "is missing");
  TESSERA_RETURN_IF_ERROR(fields.Read("tokens", &tokens));
  TESSERA_ASSIGN_OR_RETURN(const ServedModel* model,
                           door.FindModel(std::move(name).value_or(""), request.caller));
  TESSERA_ASSIGN_OR_RETURN(std::string text, Detokenize(*model, tokens, false, "tokens"));
  nlohmann::ordered_json answer;
  answer["prompt"] = std::move(text);
  return answer.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

void HandleDetokenize(FrontDoor& door, HttpCall& call) {
  auto answer = AnswerDetokenize(door, call.request());
  if (!answer.ok()) return call.ReplyError(answer.status());
  call.Reply({.status = 200, .body = *std::move(answer)});
}

}  // namespace tessera::api
