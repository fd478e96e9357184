// POST /tokenize: {"model", "prompt", "add_special_tokens"} or {"model", "messages"} ->
// {"count", "max_model_len", "tokens"}.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "coordinator/api/http/openai_request.h"
#include "coordinator/api/http/routes.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

absl::StatusOr<std::string> AnswerTokenize(FrontDoor& door, const HttpRequest& request) {
  TESSERA_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(request.body));
  const JsonFields fields(json);
  std::optional<std::string> name, prompt;
  std::optional<bool> add_special_tokens;
  TESSERA_RETURN_IF_ERROR(fields.Read("model", &name));
  TESSERA_RETURN_IF_ERROR(fields.Read("prompt", &prompt));
  TESSERA_RETURN_IF_ERROR(fields.Read("add_special_tokens", &add_special_tokens));
  TESSERA_ASSIGN_OR_RETURN(const ServedModel* model,
                           door.FindModel(std::move(name).value_or(""), request.caller));
  std::vector<int32_t> ids;
  if (prompt.has_value()) {
    TESSERA_ASSIGN_OR_RETURN(
        ids, TokenizeText(*model, *prompt, add_special_tokens.value_or(true), "prompt"));
  } else if (const Json* messages = fields.Find("messages")) {
    TESSERA_ASSIGN_OR_RETURN(const auto turns, ParseMessages(*messages));
    TESSERA_ASSIGN_OR_RETURN(ids, PromptFromChat(*model, turns, door.clock.Now()));
  } else {
    return BadParam("prompt", "is missing; send `prompt` or `messages`");
  }
  nlohmann::ordered_json answer;
  answer["count"] = ids.size();
  answer["max_model_len"] = model->context_max;
  answer["tokens"] = std::move(ids);
  return answer.dump();
}

}  // namespace

void HandleTokenize(FrontDoor& door, HttpCall& call) {
  auto answer = AnswerTokenize(door, call.request());
  if (!answer.ok()) return call.ReplyError(answer.status());
  call.Reply({.status = 200, .body = *std::move(answer)});
}

}  // namespace tessera::api
