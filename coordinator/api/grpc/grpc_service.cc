// The methods of tessera.v1.Tessera, see grpc_service.h.

#include "coordinator/api/grpc/grpc_service.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "coordinator/api/grpc/call_end.h"
#include "coordinator/api/grpc/convert.h"
#include "coordinator/api/grpc/generate_reactor.h"
#include "coordinator/api/prompt.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

template <typename Message>
std::optional<int32_t> PriorityOf(const Message& request) {
  return request.has_priority() ? std::optional<int32_t>(request.priority()) : std::nullopt;
}

absl::StatusOr<PreparedCall> PrepareGenerate(FrontDoor& door, const v1::GenerateRequest& request,
                                             const Caller& caller) {
  PreparedCall call;
  TESSERA_ASSIGN_OR_RETURN(call.model, door.FindModel(request.model(), caller));
  call.params = ToParams(request.sampling(), PriorityOf(request));
  TESSERA_RETURN_IF_ERROR(door.Admit(*call.model, call.params, caller));
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText: {
      TESSERA_ASSIGN_OR_RETURN(call.prompt.ids,
                               PromptFromText(*call.model, request.text(), "text"));
      return call;
    }
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = request.token_ids().ids();
      TESSERA_ASSIGN_OR_RETURN(
          call.prompt.ids, PromptFromTokens(*call.model, {ids.begin(), ids.end()}, "token_ids"));
      return call;
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return BadParam("prompt", "is missing; set `text` or `token_ids`");
}

absl::StatusOr<PreparedCall> PrepareChat(FrontDoor& door, const v1::ChatRequest& request,
                                         const Caller& caller) {
  PreparedCall call;
  TESSERA_ASSIGN_OR_RETURN(call.model, door.FindModel(request.model(), caller));
  call.params = ToParams(request.sampling(), PriorityOf(request));
  TESSERA_RETURN_IF_ERROR(door.Admit(*call.model, call.params, caller));
  TESSERA_ASSIGN_OR_RETURN(call.prompt, door.ChatPrompt(*call.model, ToTurns(request), caller));
  return call;
}

absl::Status AnswerTokenize(FrontDoor& door, const v1::TokenizeRequest& request,
                            const Caller& caller, v1::TokenizeResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const ServedModel* model, door.FindModel(request.model(), caller));
  const bool add = !request.has_add_special_tokens() || request.add_special_tokens();
  TESSERA_ASSIGN_OR_RETURN(const auto ids, TokenizeText(*model, request.text(), add, "text"));
  response->mutable_token_ids()->Add(ids.begin(), ids.end());
  response->set_context_max(static_cast<uint32_t>(model->context_max));
  return absl::OkStatus();
}

absl::Status AnswerDetokenize(FrontDoor& door, const v1::DetokenizeRequest& request,
                              const Caller& caller, v1::DetokenizeResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const ServedModel* model, door.FindModel(request.model(), caller));
  const std::vector<int32_t> ids(request.token_ids().begin(), request.token_ids().end());
  TESSERA_ASSIGN_OR_RETURN(*response->mutable_text(), Detokenize(*model, ids, false, "token_ids"));
  return absl::OkStatus();
}

absl::Status AnswerGetModel(FrontDoor& door, const v1::GetModelRequest& request,
                            const Caller& caller, v1::Model* response) {
  TESSERA_ASSIGN_OR_RETURN(const ServedModel* model, door.FindModel(request.model(), caller));
  *response = ToProto(*model, door.Judge().models[model->index].ready);
  return absl::OkStatus();
}

absl::Status AnswerListModels(FrontDoor& door, const Caller& caller,
                              v1::ListModelsResponse* response) {
  const ReadinessReport report = door.Judge();
  for (const ServedModel& model : door.models) {
    if (!caller.MayUse(model.name)) continue;
    *response->add_models() = ToProto(model, report.models[model.index].ready);
  }
  return absl::OkStatus();
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GrpcService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  return GenerateReactor::Launch(
      door_, pool_.MakeSerial(), write_deadline_, context, "Generate", request->ByteSizeLong(),
      [this, request](const Caller& caller) { return PrepareGenerate(door_, *request, caller); });
}

grpc::ServerWriteReactor<v1::GenerateResponse>* GrpcService::Chat(
    grpc::CallbackServerContext* context, const v1::ChatRequest* request) {
  return GenerateReactor::Launch(
      door_, pool_.MakeSerial(), write_deadline_, context, "Chat", request->ByteSizeLong(),
      [this, request](const Caller& caller) { return PrepareChat(door_, *request, caller); });
}

grpc::ServerUnaryReactor* GrpcService::Tokenize(grpc::CallbackServerContext* context,
                                                const v1::TokenizeRequest* request,
                                                v1::TokenizeResponse* response) {
  return Answer(context, "Tokenize", *request, [&](const Caller& caller) {
    return AnswerTokenize(door_, *request, caller, response);
  });
}

grpc::ServerUnaryReactor* GrpcService::Detokenize(grpc::CallbackServerContext* context,
                                                  const v1::DetokenizeRequest* request,
                                                  v1::DetokenizeResponse* response) {
  return Answer(context, "Detokenize", *request, [&](const Caller& caller) {
    return AnswerDetokenize(door_, *request, caller, response);
  });
}

grpc::ServerUnaryReactor* GrpcService::ListModels(grpc::CallbackServerContext* context,
                                                  const v1::ListModelsRequest* request,
                                                  v1::ListModelsResponse* response) {
  return Answer(context, "ListModels", *request,
                [&](const Caller& caller) { return AnswerListModels(door_, caller, response); });
}

grpc::ServerUnaryReactor* GrpcService::GetModel(grpc::CallbackServerContext* context,
                                                const v1::GetModelRequest* request,
                                                v1::Model* response) {
  return Answer(context, "GetModel", *request, [&](const Caller& caller) {
    return AnswerGetModel(door_, *request, caller, response);
  });
}

grpc::ServerUnaryReactor* GrpcService::Answer(
    grpc::CallbackServerContext* context, const char* method,
    const google::protobuf::Message& request,
    absl::FunctionRef<absl::Status(const Caller& caller)> answer) {
  BodyLease lease(door_.bodies);
  CallRecord record = BeginCall(door_, *context, method);
  const auto caller = CallCaller(door_, *context);
  absl::Status status = caller.status();
  if (caller.ok()) record.facts.tenant = caller->tenant;
  if (status.ok()) status = lease.GrowTo(request.ByteSizeLong());
  if (status.ok()) status = answer(*caller);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(EndCall(door_, *context, record, status));
  return reactor;
}

}  // namespace tessera::api
