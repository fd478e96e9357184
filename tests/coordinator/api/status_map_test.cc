// The whole status table, code by code, at every door.

#include "coordinator/api/status_map.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "absl/time/time.h"
#include "coordinator/engine/retry_after.h"

namespace tessera::api {
namespace {

struct Expected {
  absl::StatusCode code;
  int http;
  grpc::StatusCode grpc;
  const char* type;
  const char* openai_code;
  bool retry_after;
  bool internal;
};

// Every code that Abseil has, but OK.
const Expected kExpected[] = {
    {absl::StatusCode::kCancelled, 499, grpc::CANCELLED, "invalid_request_error",
     "request_cancelled", false, false},
    {absl::StatusCode::kUnknown, 500, grpc::UNKNOWN, "server_error", "internal_error", false, true},
    {absl::StatusCode::kInvalidArgument, 400, grpc::INVALID_ARGUMENT, "invalid_request_error",
     "invalid_value", false, false},
    {absl::StatusCode::kDeadlineExceeded, 504, grpc::DEADLINE_EXCEEDED, "server_error",
     "deadline_exceeded", false, false},
    {absl::StatusCode::kNotFound, 404, grpc::NOT_FOUND, "invalid_request_error", "not_found", false,
     false},
    {absl::StatusCode::kAlreadyExists, 409, grpc::ALREADY_EXISTS, "invalid_request_error",
     "already_exists", false, false},
    {absl::StatusCode::kPermissionDenied, 403, grpc::PERMISSION_DENIED, "permission_error",
     "permission_denied", false, false},
    {absl::StatusCode::kResourceExhausted, 429, grpc::RESOURCE_EXHAUSTED, "rate_limit_exceeded",
     "rate_limit_exceeded", true, false},
    {absl::StatusCode::kFailedPrecondition, 400, grpc::FAILED_PRECONDITION, "invalid_request_error",
     "failed_precondition", false, false},
    {absl::StatusCode::kAborted, 503, grpc::ABORTED, "service_unavailable", "aborted", true, false},
    {absl::StatusCode::kOutOfRange, 400, grpc::OUT_OF_RANGE, "invalid_request_error",
     "out_of_range", false, false},
    {absl::StatusCode::kUnimplemented, 400, grpc::UNIMPLEMENTED, "invalid_request_error",
     "unsupported_parameter", false, false},
    {absl::StatusCode::kInternal, 500, grpc::INTERNAL, "server_error", "internal_error", false,
     true},
    {absl::StatusCode::kUnavailable, 503, grpc::UNAVAILABLE, "service_unavailable",
     "service_unavailable", true, false},
    {absl::StatusCode::kDataLoss, 500, grpc::DATA_LOSS, "server_error", "internal_error", false,
     true},
    {absl::StatusCode::kUnauthenticated, 401, grpc::UNAUTHENTICATED, "invalid_request_error",
     "invalid_api_key", false, false},
};

TEST(StatusMapTest, EveryCodeSaysTheSameAtEveryDoor) {
  std::set<absl::StatusCode> seen;
  for (const Expected& expected : kExpected) {
    SCOPED_TRACE(absl::StatusCodeToString(expected.code));
    seen.insert(expected.code);
    const absl::Status status(expected.code, "the secret");
    EXPECT_EQ(RowOf(expected.code).code, expected.code);
    EXPECT_EQ(HttpOf(status), expected.http);
    EXPECT_EQ(ToGrpc(status, "req-1").error_code(), expected.grpc);
    EXPECT_EQ(RowOf(expected.code).retry_after, expected.retry_after);
    const auto json = nlohmann::json::parse(ErrorJson(status, "req-1"));
    ASSERT_EQ(json.size(), 1u);
    const auto& error = json["error"];
    EXPECT_EQ(error["type"], expected.type);
    EXPECT_EQ(error["code"], expected.openai_code);
    EXPECT_TRUE(error["param"].is_null());
    // Internals never leave; what the client can act on does.
    for (const std::string& message :
         {error["message"].get<std::string>(), ToGrpc(status, "req-1").error_message()}) {
      EXPECT_EQ(message.find("the secret") == std::string::npos, expected.internal) << message;
      EXPECT_EQ(message.find("req-1") != std::string::npos, expected.internal) << message;
    }
  }
  // Codes 1 to 16 are all there are, and the table has each once.
  EXPECT_EQ(seen.size(), 16u);
  EXPECT_EQ(StatusTable().size(), 16u);
}

TEST(StatusMapTest, RetryAfterIsTheStatussOwnElseTheTables) {
  const absl::Status busy = absl::ResourceExhaustedError("busy");
  EXPECT_EQ(RetrySecondsOf(busy), 1);
  EXPECT_EQ(RetrySecondsOf(WithRetryAfter(busy, absl::Seconds(17))), 17);
  EXPECT_EQ(RetrySecondsOf(WithRetryAfter(busy, absl::Milliseconds(1500))), 2);
  EXPECT_EQ(RetrySecondsOf(WithRetryAfter(busy, absl::ZeroDuration())), 1);
  EXPECT_EQ(RetrySecondsOf(absl::InvalidArgumentError("wrong")), std::nullopt);
  EXPECT_EQ(RetrySecondsOf(absl::OkStatus()), std::nullopt);
}

TEST(StatusMapTest, OkAndUnknownCodes) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus(), "r").ok());
  EXPECT_EQ(RowOf(static_cast<absl::StatusCode>(77)).code, absl::StatusCode::kInternal);
}

TEST(StatusMapTest, PayloadsRefineWhatHttpClientsSee) {
  const absl::Status status =
      WithHttp(WithCode(BadParam("messages[2].role", "is missing"), "finer"), 413);
  EXPECT_EQ(ParamOf(status), "messages[2].role");
  EXPECT_EQ(CodeOf(status), "finer");
  EXPECT_EQ(HttpOf(status), 413);
  const auto error = nlohmann::json::parse(ErrorJson(status, "r"))["error"];
  EXPECT_EQ(error["param"], "messages[2].role");
  EXPECT_EQ(error["code"], "finer");
  EXPECT_EQ(error["message"], "`messages[2].role` is missing");
  EXPECT_EQ(ToGrpc(status, "r").error_code(), grpc::INVALID_ARGUMENT);
}

TEST(StatusMapTest, BrokenUtf8InAMessageIsReplaced) {
  const auto json =
      nlohmann::json::parse(ErrorJson(absl::InvalidArgumentError("bad \xff byte"), "r"));
  EXPECT_EQ(json["error"]["message"], "bad \xEF\xBF\xBD byte");
}

}  // namespace
}  // namespace tessera::api
