// The audit log: one line per call of either front door, whatever became of it, who made it and
// what it got. JSON, never a word of prompts or answers. Written by I/O threads when a call ends.

#ifndef TESSERA_COORDINATOR_API_AUDIT_H_
#define TESSERA_COORDINATOR_API_AUDIT_H_

#include <spdlog/logger.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tessera::api {

// What a call that reached the engine came to; empty of others.
struct AuditFacts {
  std::string tenant;  // empty: not known, the key was refused
  std::string model;
  std::string generation;  // the answer's id, as in usage records
  bool finished = false;   // then:
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;
  uint32_t output_tokens = 0;
};

struct AuditLine {
  std::string request_id;
  std::string trace_id;
  std::string door;    // "http", "grpc"
  std::string method;  // "POST /v1/completions", "Chat"
  std::string status;  // of HTTP, 499 when the client went away; the name of a gRPC code
  double seconds = 0;
  AuditFacts facts;
};

// As it is written, without a line's end. Values that clients choose are escaped and bounded.
std::string ToJson(const AuditLine& line, absl::Time now);

class AuditLog {
 public:
  // `target`: a file, to which lines are appended; "log", the process's own log at level info;
  // "off", nowhere. NOT_FOUND, PERMISSION_DENIED name the file.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const std::string& target);

  // Any thread; the line is handed to the kernel before this returns.
  void Write(const AuditLine& line, absl::Time now);

 private:
  explicit AuditLog(std::shared_ptr<spdlog::logger> file, bool to_log)
      : file_(std::move(file)), to_log_(to_log) {}

  const std::shared_ptr<spdlog::logger> file_;  // null: none
  const bool to_log_;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_AUDIT_H_
