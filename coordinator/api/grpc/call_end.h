// What every gRPC call does at its beginning and end: request id, deadline, trailers, metrics, log.

#ifndef TESSERA_COORDINATOR_API_GRPC_CALL_END_H_
#define TESSERA_COORDINATOR_API_GRPC_CALL_END_H_

#include <grpcpp/server_context.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/audit.h"
#include "coordinator/api/front_door.h"
#include "coordinator/api/trace_context.h"

namespace tessera::api {

// The client's x-request-id, or one of ours.
std::string CallRequestId(FrontDoor& door, const grpc::CallbackServerContext& context);
// The caller's trace, by the metadata `traceparent`.
TraceContext CallTrace(FrontDoor& door, const grpc::CallbackServerContext& context);
// Who calls, by the metadata `authorization`.
absl::StatusOr<Caller> CallCaller(const FrontDoor& door,
                                  const grpc::CallbackServerContext& context);
// Whether it wants to read its cost in the usage, by the metadata `x-tessera-include-cost`.
bool AsksForCost(const grpc::CallbackServerContext& context);
absl::Time CallDeadline(const grpc::CallbackServerContext& context);
// A call from its arrival to its end.
struct CallRecord {
  const char* method;
  std::string request_id;
  TraceContext trace;
  absl::Time arrival;
  AuditFacts facts = {};
};
CallRecord BeginCall(FrontDoor& door, const grpc::CallbackServerContext& context,
                     const char* method);
// Sets the trailers, counts and audits the call, and gives what to Finish with. Once per call,
// before Finish.
grpc::Status EndCall(FrontDoor& door, grpc::CallbackServerContext& context,
                     const CallRecord& record, const absl::Status& status);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_GRPC_CALL_END_H_
