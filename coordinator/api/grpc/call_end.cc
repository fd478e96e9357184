// Beginning and end of gRPC calls, see call_end.h.

#include "coordinator/api/grpc/call_end.h"

#include <spdlog/spdlog.h>

#include <chrono>

#include "coordinator/api/request_id.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {

std::string CallRequestId(FrontDoor& door, const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("x-request-id");
  if (found != context.client_metadata().end()) {
    const std::string_view id(found->second.data(), found->second.size());
    if (IsUsableRequestId(id)) return std::string(id);
  }
  return door.random.NextId("req-");
}

TraceContext CallTrace(FrontDoor& door, const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("traceparent");
  if (found == context.client_metadata().end()) return ContinueTrace("", door.random);
  return ContinueTrace({found->second.data(), found->second.size()}, door.random);
}

CallRecord BeginCall(FrontDoor& door, const grpc::CallbackServerContext& context,
                     const char* method) {
  return {.method = method,
          .request_id = CallRequestId(door, context),
          .trace = CallTrace(door, context),
          .arrival = door.clock.Now()};
}

absl::StatusOr<Caller> CallCaller(const FrontDoor& door,
                                  const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("authorization");
  if (found == context.client_metadata().end()) return door.Identify("");
  return door.Identify({found->second.data(), found->second.size()});
}

bool AsksForCost(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find(kIncludeCostMetadata);
  return found != context.client_metadata().end() && found->second == "true";
}

absl::Time CallDeadline(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

grpc::Status EndCall(FrontDoor& door, grpc::CallbackServerContext& context,
                     const CallRecord& record, const absl::Status& status) {
  context.AddTrailingMetadata("x-request-id", record.request_id);
  context.AddTrailingMetadata("traceresponse", record.trace.ToTraceparent());
  const StatusRow& row = RowOf(status.code());
  if (const auto seconds = RetrySecondsOf(status)) {
    context.AddTrailingMetadata("retry-after", std::to_string(*seconds));
  }
  if (!status.ok() && row.internal) {
    spdlog::error("request {} {} failed: {}", record.request_id, record.method, status.ToString());
  }
  const std::string code = absl::StatusCodeToString(status.code());
  door.metrics.CountGrpc(record.method, code);
  if (door.audit != nullptr) {
    const absl::Time now = door.clock.Now();
    door.audit->Write({.request_id = record.request_id,
                       .trace_id = record.trace.trace_id,
                       .door = "grpc",
                       .method = record.method,
                       .status = code,
                       .seconds = absl::ToDoubleSeconds(now - record.arrival),
                       .facts = record.facts},
                      now);
  }
  return ToGrpc(status, record.request_id);
}

}  // namespace tessera::api
