// tessera.v1.Tessera over the front door. Streams run on the I/O pool; the small unary calls answer
// on gRPC's own threads.

#ifndef TESSERA_COORDINATOR_API_GRPC_GRPC_SERVICE_H_
#define TESSERA_COORDINATOR_API_GRPC_GRPC_SERVICE_H_

#include <google/protobuf/message.h>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/api/front_door.h"
#include "coordinator/api/io_pool.h"
#include "tessera/v1/tessera.grpc.pb.h"

namespace tessera::api {

class GrpcService final : public v1::Tessera::CallbackService {
 public:
  GrpcService(FrontDoor& door, IoPool& pool, absl::Duration write_deadline)
      : door_(door), pool_(pool), write_deadline_(write_deadline) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::GenerateResponse>* Chat(grpc::CallbackServerContext* context,
                                                       const v1::ChatRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::Model* response) override;

 private:
  // Runs `answer` at once, for a caller that may call and a message that there is room for.
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const char* method,
                                   const google::protobuf::Message& request,
                                   absl::FunctionRef<absl::Status(const Caller& caller)> answer);

  FrontDoor& door_;
  IoPool& pool_;
  const absl::Duration write_deadline_;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_GRPC_GRPC_SERVICE_H_
