// The status table and its uses, see status_map.h.

#include "coordinator/api/status_map.h"

#include <array>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "coordinator/engine/retry_after.h"

namespace tessera::api {
namespace {

using absl::StatusCode;

constexpr char kParamPayload[] = "tessera/param";
constexpr char kCodePayload[] = "tessera/code";
constexpr char kHttpPayload[] = "tessera/http";

constexpr std::array<StatusRow, 16> kTable = {{
    {StatusCode::kCancelled, 499, grpc::CANCELLED, "invalid_request_error", "request_cancelled",
     false, false},
    {StatusCode::kUnknown, 500, grpc::UNKNOWN, "server_error", "internal_error", false, true},
    {StatusCode::kInvalidArgument, 400, grpc::INVALID_ARGUMENT, "invalid_request_error",
     "invalid_value", false, false},
    {StatusCode::kDeadlineExceeded, 504, grpc::DEADLINE_EXCEEDED, "server_error",
     "deadline_exceeded", false, false},
    {StatusCode::kNotFound, 404, grpc::NOT_FOUND, "invalid_request_error", "not_found", false,
     false},
    {StatusCode::kAlreadyExists, 409, grpc::ALREADY_EXISTS, "invalid_request_error",
     "already_exists", false, false},
    {StatusCode::kPermissionDenied, 403, grpc::PERMISSION_DENIED, "permission_error",
     "permission_denied", false, false},
    {StatusCode::kResourceExhausted, 429, grpc::RESOURCE_EXHAUSTED, "rate_limit_exceeded",
     "rate_limit_exceeded", true, false},
    {StatusCode::kFailedPrecondition, 400, grpc::FAILED_PRECONDITION, "invalid_request_error",
     "failed_precondition", false, false},
    {StatusCode::kAborted, 503, grpc::ABORTED, "service_unavailable", "aborted", true, false},
    {StatusCode::kOutOfRange, 400, grpc::OUT_OF_RANGE, "invalid_request_error", "out_of_range",
     false, false},
    {StatusCode::kUnimplemented, 400, grpc::UNIMPLEMENTED, "invalid_request_error",
     "unsupported_parameter", false, false},
    {StatusCode::kInternal, 500, grpc::INTERNAL, "server_error", "internal_error", false, true},
    {StatusCode::kUnavailable, 503, grpc::UNAVAILABLE, "service_unavailable", "service_unavailable",
     true, false},
    {StatusCode::kDataLoss, 500, grpc::DATA_LOSS, "server_error", "internal_error", false, true},
    {StatusCode::kUnauthenticated, 401, grpc::UNAUTHENTICATED, "invalid_request_error",
     "invalid_api_key", false, false},
}};

absl::Status WithPayload(absl::Status status, const char* name, const std::string& value) {
  status.SetPayload(name, absl::Cord(value));
  return status;
}

std::string PayloadOf(const absl::Status& status, const char* name) {
  const auto payload = status.GetPayload(name);
  return payload.has_value() ? std::string(*payload) : std::string();
}

}  // namespace

absl::Span<const StatusRow> StatusTable() { return kTable; }

const StatusRow& RowOf(StatusCode code) {
  const StatusRow* internal = nullptr;
  for (const StatusRow& row : kTable) {
    if (row.code == code) return row;
    if (row.code == StatusCode::kInternal) internal = &row;
  }
  return *internal;
}

absl::Status WithParam(absl::Status status, const std::string& param) {
  return WithPayload(std::move(status), kParamPayload, param);
}

absl::Status WithCode(absl::Status status, const std::string& code) {
  return WithPayload(std::move(status), kCodePayload, code);
}

absl::Status WithHttp(absl::Status status, int http) {
  return WithPayload(std::move(status), kHttpPayload, absl::StrCat(http));
}

std::string ParamOf(const absl::Status& status) { return PayloadOf(status, kParamPayload); }

std::string CodeOf(const absl::Status& status) {
  const std::string own = PayloadOf(status, kCodePayload);
  return own.empty() ? RowOf(status.code()).openai_code : own;
}

int HttpOf(const absl::Status& status) {
  int http = 0;
  if (absl::SimpleAtoi(PayloadOf(status, kHttpPayload), &http)) return http;
  return RowOf(status.code()).http;
}

std::optional<int64_t> RetrySecondsOf(const absl::Status& status) {
  if (status.ok()) return std::nullopt;
  if (const std::optional<int64_t> own = RetryAfterOf(status)) return own;
  if (RowOf(status.code()).retry_after) return kRetryAfterSeconds;
  return std::nullopt;
}

absl::Status BadParam(const std::string& param, const std::string& message) {
  return WithParam(absl::InvalidArgumentError(absl::StrCat("`", param, "` ", message)), param);
}

absl::Status Unsupported(const std::string& param, const std::string& message) {
  return WithParam(absl::UnimplementedError(absl::StrCat("`", param, "` ", message)), param);
}

std::string PublicMessage(const absl::Status& status, const std::string& request_id) {
  if (!RowOf(status.code()).internal) return std::string(status.message());
  return absl::StrCat("internal error; the server's log has it under request id ", request_id);
}

std::string ErrorJson(const absl::Status& status, const std::string& request_id) {
  const std::string param = ParamOf(status);
  nlohmann::ordered_json error;
  error["message"] = PublicMessage(status, request_id);
  error["type"] = RowOf(status.code()).type;
  if (param.empty()) {
    error["param"] = nullptr;
  } else {
    error["param"] = param;
  }
  error["code"] = CodeOf(status);
  nlohmann::ordered_json body;
  body["error"] = std::move(error);
  // A message may quote what the client sent; whatever is not UTF-8 in it is replaced, never thrown
  // on.
  return body.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

grpc::Status ToGrpc(const absl::Status& status, const std::string& request_id) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(RowOf(status.code()).grpc, PublicMessage(status, request_id));
}

}  // namespace tessera::api
