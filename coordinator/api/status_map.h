// The one table from absl::StatusCode to what every front door says: HTTP status, OpenAI error type
// and code, gRPC code. Details that only HTTP clients see (the parameter, a finer code, a finer
// HTTP status) travel as payloads of the absl::Status itself. Any thread.

#ifndef TESSERA_COORDINATOR_API_STATUS_MAP_H_
#define TESSERA_COORDINATOR_API_STATUS_MAP_H_

#include <grpcpp/support/status.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace tessera::api {

// Where a status says that a client may come back, and not when.
inline constexpr int kRetryAfterSeconds = 1;

struct StatusRow {
  absl::StatusCode code;
  int http;
  grpc::StatusCode grpc;
  const char* type;         // OpenAI error.type
  const char* openai_code;  // OpenAI error.code where the status carries none of its own
  bool retry_after;         // tell the client when to come back
  bool internal;            // the message stays in the log
};

absl::Span<const StatusRow> StatusTable();
// The row of a code; of kInternal for one that is not in the table.
const StatusRow& RowOf(absl::StatusCode code);

// The request's parameter that an error is about ("messages[2].role").
absl::Status WithParam(absl::Status status, const std::string& param);
// A finer OpenAI error.code than the table's ("context_length_exceeded").
absl::Status WithCode(absl::Status status, const std::string& code);
// An HTTP status that no absl code stands for (405, 413).
absl::Status WithHttp(absl::Status status, int http);
std::string ParamOf(const absl::Status& status);  // "" where there is none
std::string CodeOf(const absl::Status& status);
int HttpOf(const absl::Status& status);
// The seconds of Retry-After and of the gRPC trailer `retry-after`, at least 1: the status's own
// (engine/retry_after.h), else kRetryAfterSeconds where the table has one, else none.
std::optional<int64_t> RetrySecondsOf(const absl::Status& status);

// INVALID_ARGUMENT about a parameter: "`param` message".
absl::Status BadParam(const std::string& param, const std::string& message);
// UNIMPLEMENTED about a parameter that is reserved.
absl::Status Unsupported(const std::string& param, const std::string& message);

// What a client may read: the message, or for internal errors only that and the request id.
std::string PublicMessage(const absl::Status& status, const std::string& request_id);
// {"error":{"message","type","param","code"}}
std::string ErrorJson(const absl::Status& status, const std::string& request_id);
grpc::Status ToGrpc(const absl::Status& status, const std::string& request_id);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_STATUS_MAP_H_
