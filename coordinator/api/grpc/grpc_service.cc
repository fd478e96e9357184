// The methods of tessera.v1.Tessera, see grpc_service.h.

#include "coordinator/api/grpc/grpc_service.h"

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

absl::StatusOr<PreparedCall> PrepareGenerate(FrontDoor& door, const v1::GenerateRequest& request) {
  PreparedCall call;
  TESSERA_ASSIGN_OR_RETURN(call.model, door.FindModel(request.model()));
  TESSERA_ASSIGN_OR_RETURN(call.params, ToParams(request.sampling(), request.priority()));
  TESSERA_RETURN_IF_ERROR(door.Admit(*call.model, call.params));
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText: {
      TESSERA_ASSIGN_OR_RETURN(call.prompt, PromptFromText(*call.model, request.text(), "text"));
      return call;
    }
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = request.token_ids().ids();
      TESSERA_ASSIGN_OR_RETURN(
          call.prompt, PromptFromTokens(*call.model, {ids.begin(), ids.end()}, "token_ids"));
      return call;
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return BadParam("prompt", "is missing; set `text` or `token_ids`");
}

absl::StatusOr<PreparedCall> PrepareChat(FrontDoor& door, const v1::ChatRequest& request) {
  PreparedCall call;
  TESSERA_ASSIGN_OR_RETURN(call.model, door.FindModel(request.model()));
  TESSERA_ASSIGN_OR_RETURN(call.params, ToParams(request.sampling(), request.priority()));
  TESSERA_RETURN_IF_ERROR(door.Admit(*call.model, call.params));
  TESSERA_ASSIGN_OR_RETURN(call.prompt,
                           PromptFromChat(*call.model, ToTurns(request), door.clock.Now()));
  return call;
}

absl::Status AnswerTokenize(FrontDoor& door, const v1::TokenizeRequest& request,
                            v1::TokenizeResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const ServedModel* model, door.FindModel(request.model()));
  const bool add = !request.has_add_special_tokens() || request.add_special_tokens();
  TESSERA_ASSIGN_OR_RETURN(const auto ids, TokenizeText(*model, request.text(), add, "text"));
  response->mutable_token_ids()->Add(ids.begin(), ids.end());
  response->set_context_max(static_cast<uint32_t>(model->context_max));
  return absl::OkStatus();
}

absl::Status AnswerDetokenize(FrontDoor& door, const v1::DetokenizeRequest& request,
                              v1::DetokenizeResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const ServedModel* model, door.FindModel(request.model()));
  const std::vector<int32_t> ids(request.token_ids().begin(), request.token_ids().end());
  TESSERA_ASSIGN_OR_RETURN(*response->mutable_text(), Detokenize(*model, ids, "token_ids"));
  return absl::OkStatus();
}

absl::Status AnswerGetModel(FrontDoor& door, const v1::GetModelRequest& request,
                            v1::Model* response) {
  TESSERA_ASSIGN_OR_RETURN(const ServedModel* model, door.FindModel(request.model()));
  *response = ToProto(*model, door.Judge().models[model->index].ready);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GrpcService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  return GenerateReactor::Launch(door_, pool_.MakeSerial(), write_deadline_, context, "Generate",
                                 [this, request] { return PrepareGenerate(door_, *request); });
}

grpc::ServerWriteReactor<v1::GenerateResponse>* GrpcService::Chat(
    grpc::CallbackServerContext* context, const v1::ChatRequest* request) {
  return GenerateReactor::Launch(door_, pool_.MakeSerial(), write_deadline_, context, "Chat",
                                 [this, request] { return PrepareChat(door_, *request); });
}

grpc::ServerUnaryReactor* GrpcService::Tokenize(grpc::CallbackServerContext* context,
                                                const v1::TokenizeRequest* request,
                                                v1::TokenizeResponse* response) {
  return Finish(context, "Tokenize", AnswerTokenize(door_, *request, response));
}

grpc::ServerUnaryReactor* GrpcService::Detokenize(grpc::CallbackServerContext* context,
                                                  const v1::DetokenizeRequest* request,
                                                  v1::DetokenizeResponse* response) {
  return Finish(context, "Detokenize", AnswerDetokenize(door_, *request, response));
}

grpc::ServerUnaryReactor* GrpcService::ListModels(grpc::CallbackServerContext* context,
                                                  const v1::ListModelsRequest*,
                                                  v1::ListModelsResponse* response) {
  const ReadinessReport report = door_.Judge();
  for (const ServedModel& model : door_.models) {
    *response->add_models() = ToProto(model, report.models[model.index].ready);
  }
  return Finish(context, "ListModels", absl::OkStatus());
}

grpc::ServerUnaryReactor* GrpcService::GetModel(grpc::CallbackServerContext* context,
                                                const v1::GetModelRequest* request,
                                                v1::Model* response) {
  return Finish(context, "GetModel", AnswerGetModel(door_, *request, response));
}

grpc::ServerUnaryReactor* GrpcService::Finish(grpc::CallbackServerContext* context,
                                              const char* method, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(EndCall(door_, *context, method, CallRequestId(door_, *context), status));
  return reactor;
}

}  // namespace tessera::api
