// POST /v1/chat/completions.

#include <utility>

#include "coordinator/api/http/generation_reply.h"
#include "coordinator/api/http/routes.h"

namespace tessera::api {

void HandleChatCompletions(FrontDoor& door, HttpCall& call) {
  auto request = ParseChatCompletion(call.request().body);
  if (!request.ok()) return call.ReplyError(request.status());
  const auto model = door.FindModel(request->common.model);
  if (!model.ok()) return call.ReplyError(model.status());
  const absl::Status admitted = door.Admit(**model, request->common.params);
  if (!admitted.ok()) return call.ReplyError(admitted);
  auto prompt = PromptFromChat(**model, request->messages, door.clock.Now());
  if (!prompt.ok()) return call.ReplyError(prompt.status());
  GenerationReply::Serve(door, call, **model, request->common, *std::move(prompt), /*chat=*/true);
}

}  // namespace tessera::api
