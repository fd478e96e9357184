// POST /v1/chat/completions.

#include <optional>
#include <utility>

#include "coordinator/api/http/generation_reply.h"
#include "coordinator/api/http/routes.h"

namespace tessera::api {

void HandleChatCompletions(FrontDoor& door, HttpCall& call) {
  const Caller& caller = call.request().caller;
  auto request = ParseChatCompletion(call.request().body);
  if (!request.ok()) return call.ReplyError(request.status());
  GenerateParams& params = request->common.params;
  const auto model = door.FindModel(request->common.model, caller);
  if (!model.ok()) return call.ReplyError(model.status());
  const auto deadline = RequestDeadline(call.request());
  if (!deadline.ok()) return call.ReplyError(deadline.status());
  params.deadline = *deadline;
  params.traceparent = call.request().trace.ToTraceparent();
  const absl::Status admitted = door.Admit(**model, params, caller);
  if (!admitted.ok()) return call.ReplyError(admitted);
  auto prompt = door.ChatPrompt(**model, request->messages, caller);
  if (!prompt.ok()) return call.ReplyError(prompt.status());
  GenerationReply::Serve(door, call, **model, request->common, *std::move(prompt), /*chat=*/true,
                         /*echo_text=*/std::nullopt);
}

}  // namespace tessera::api
