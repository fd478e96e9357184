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

absl::StatusOr<Caller> CallCaller(const FrontDoor& door,
                                  const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("authorization");
  if (found == context.client_metadata().end()) return door.Identify("");
  return door.Identify({found->second.data(), found->second.size()});
}

absl::Time CallDeadline(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

grpc::Status EndCall(FrontDoor& door, grpc::CallbackServerContext& context, const char* method,
                     const std::string& request_id, const absl::Status& status) {
  context.AddTrailingMetadata("x-request-id", request_id);
  const StatusRow& row = RowOf(status.code());
  if (const auto seconds = RetrySecondsOf(status)) {
    context.AddTrailingMetadata("retry-after", std::to_string(*seconds));
  }
  if (!status.ok() && row.internal) {
    spdlog::error("request {} {} failed: {}", request_id, method, status.ToString());
  }
  door.metrics.CountGrpc(method, absl::StatusCodeToString(status.code()));
  return ToGrpc(status, request_id);
}

}  // namespace tessera::api
