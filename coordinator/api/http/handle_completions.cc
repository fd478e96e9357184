// POST /v1/completions.

#include <utility>
#include <variant>

#include "coordinator/api/http/generation_reply.h"
#include "coordinator/api/http/routes.h"

namespace tessera::api {

void HandleCompletions(FrontDoor& door, HttpCall& call) {
  auto request = ParseCompletion(call.request().body);
  if (!request.ok()) return call.ReplyError(request.status());
  const auto model = door.FindModel(request->common.model);
  if (!model.ok()) return call.ReplyError(model.status());
  const absl::Status admitted = door.Admit(**model, request->common.params);
  if (!admitted.ok()) return call.ReplyError(admitted);
  auto* text = std::get_if<std::string>(&request->prompt);
  auto prompt =
      text != nullptr
          ? PromptFromText(**model, *text, "prompt")
          : PromptFromTokens(**model, std::move(std::get<std::vector<int32_t>>(request->prompt)),
                             "prompt");
  if (!prompt.ok()) return call.ReplyError(prompt.status());
  GenerationReply::Serve(door, call, **model, request->common, *std::move(prompt), /*chat=*/false);
}

}  // namespace tessera::api
