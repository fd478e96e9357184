// One HTTP request and the way to answer it, as handlers see them. Knows nothing of sockets.
// Everything but executor() runs on the connection's strand. A call is answered once: Reply, or
// BeginStream, any number of Writes (one at a time), EndStream.

#ifndef TESSERA_COORDINATOR_API_HTTP_HTTP_CALL_H_
#define TESSERA_COORDINATOR_API_HTTP_HTTP_CALL_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/audit.h"
#include "coordinator/api/io_pool.h"
#include "coordinator/api/trace_context.h"
#include "coordinator/tenants/caller.h"

namespace tessera::api {

class HttpSession;

struct HttpRequest {
  std::string method;
  std::string path;   // percent-decoded, without the query
  std::string query;  // as it came, without the "?"
  std::string body;
  std::string request_id;  // the client's x-request-id, or one of ours
  TraceContext trace;
  absl::Time arrival;
  Caller caller;  // of a route that asks who calls
  // x-request-timeout-ms and x-request-timeout (seconds), as they came.
  std::optional<std::string> timeout_ms;
  std::optional<std::string> timeout_seconds;
};

// A day: no client waits longer.
inline constexpr absl::Duration kRequestTimeoutMax = absl::Hours(24);
// When the client will have stopped waiting. INVALID_ARGUMENT names the header that makes no sense.
absl::StatusOr<absl::Time> RequestDeadline(const HttpRequest& request);

struct HttpReply {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers = {};
};

class HttpCall {
 public:
  HttpCall(HttpSession& session, HttpRequest request)
      : session_(session), request_(std::move(request)) {}

  // Its body is there until the handler returns.
  const HttpRequest& request() const { return request_; }
  // The row of the route table, for metrics ("/v1/models/{id}"), and what stood for {id}.
  const std::string& route() const { return route_; }
  const std::string& path_parameter() const { return path_parameter_; }
  void SetRoute(std::string route, std::string path_parameter);

  void Reply(HttpReply reply);
  void ReplyError(const absl::Status& status);

  void BeginStream(std::string content_type);
  void Write(std::string bytes);  // only while writable()
  void EndStream();               // only while writable()
  bool streaming() const { return streaming_; }
  bool writable() const;
  // `producer` makes the rest of the answer. It is told when a Write has gone out, and dropped when
  // the call ends or the client goes away: whatever it owns ends with it.
  void SetProducer(std::shared_ptr<void> producer, std::function<void()> on_writable);
  // Calls `work` once after `delay`, unless set again or the call has ended.
  void SetTimer(absl::Duration delay, std::function<void()> work);
  // What the audit log is to say of a call that reaches the engine.
  AuditFacts& facts() { return facts_; }
  // For posting to the connection's strand from other threads.
  SerialExecutor executor() const;

 private:
  friend class HttpSession;
  HttpSession& session_;
  HttpRequest request_;
  AuditFacts facts_;
  std::string route_ = "unknown";
  std::string path_parameter_;
  bool streaming_ = false;
  std::shared_ptr<void> producer_;
  std::function<void()> on_writable_;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_HTTP_HTTP_CALL_H_
