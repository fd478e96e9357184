// POST /v1/completions.

#include <optional>
#include <utility>
#include <variant>

#include "base/status.h"
#include "coordinator/api/http/generation_reply.h"
#include "coordinator/api/http/routes.h"

namespace tessera::api {
namespace {

// What the answer begins with: the client's own text, or that of its tokens.
absl::StatusOr<std::optional<std::string>> EchoText(const ServedModel& model,
                                                    const CompletionRequest& request) {
  if (!request.echo) return std::nullopt;
  if (const auto* text = std::get_if<std::string>(&request.prompt)) return *text;
  TESSERA_ASSIGN_OR_RETURN(std::string text,
                           Detokenize(model, std::get<std::vector<int32_t>>(request.prompt),
                                      /*skip_special=*/true, "prompt"));
  return text;
}

}  // namespace

void HandleCompletions(FrontDoor& door, HttpCall& call) {
  const Caller& caller = call.request().caller;
  auto request = ParseCompletion(call.request().body);
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
  auto echo_text = EchoText(**model, *request);
  if (!echo_text.ok()) return call.ReplyError(echo_text.status());
  auto* text = std::get_if<std::string>(&request->prompt);
  auto ids =
      text != nullptr
          ? PromptFromText(**model, *text, "prompt")
          : PromptFromTokens(**model, std::move(std::get<std::vector<int32_t>>(request->prompt)),
                             "prompt");
  if (!ids.ok()) return call.ReplyError(ids.status());
  GenerationReply::Serve(door, call, **model, request->common, Prompt{.ids = *std::move(ids)},
                         /*chat=*/false, *std::move(echo_text));
}

}  // namespace tessera::api
