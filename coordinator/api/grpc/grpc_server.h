// One gRPC listener with grpc.health.v1, and where asked for a service and reflection. The
// coordinator has two: the public one, and a health-only one on its own port. Main's thread.

#ifndef TESSERA_COORDINATOR_API_GRPC_GRPC_SERVER_H_
#define TESSERA_COORDINATOR_API_GRPC_GRPC_SERVER_H_

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/address.h"

namespace tessera::api {

inline constexpr int kGrpcMessageBytesMax = 10 << 20;  // of one message from a client
inline constexpr int kGrpcStreamsMax = 4096;           // calls at a time on one connection
inline constexpr int kGrpcMetadataBytesMax = 32 << 10;

class GrpcServer {
 public:
  GrpcServer() = default;
  ~GrpcServer() { Stop(absl::ZeroDuration()); }
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // `door` names the listener in errors ("gRPC"). `service` may be null: health only.
  absl::StatusOr<Address> Start(const std::string& door, const Address& address,
                                grpc::Service* service, bool reflection);
  // Health of "" and of "tessera.v1.Tessera". Any thread, between Start and Stop.
  void SetServing(bool serving);
  // Lets calls end until `limit` has passed, then cancels them. Idempotent.
  void Stop(absl::Duration limit);

 private:
  // Answers UNIMPLEMENTED; a server with no callback service at all would not poll.
  grpc::CallbackGenericService nothing_else_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_GRPC_GRPC_SERVER_H_
