// The HTTP listener: accepts connections, bounds their number, hands each complete request to the
// router. Lives on the I/O pool; Start, Stop on main's thread.

#ifndef TESSERA_COORDINATOR_API_HTTP_HTTP_SERVER_H_
#define TESSERA_COORDINATOR_API_HTTP_HTTP_SERVER_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/address.h"
#include "coordinator/api/audit.h"
#include "coordinator/api/body_budget.h"
#include "coordinator/api/http/http_call.h"
#include "coordinator/api/io_pool.h"
#include "coordinator/api/trace_context.h"
#include "coordinator/telemetry/metrics.h"
#include "coordinator/tenants/caller.h"

namespace tessera::api {

inline constexpr size_t kHttpHeaderBytesMax = 32 << 10;
inline constexpr size_t kHttpBodyBytesMax = 10 << 20;
inline constexpr size_t kHttpPipelineBytesMax = 64 << 10;  // read ahead while a request is answered
inline constexpr size_t kHttpLingerBytesMax = 64 << 20;    // read and dropped before closing

struct HttpOptions {
  size_t connections_max = 4096;
  absl::Duration idle_deadline;
  absl::Duration read_deadline;
  absl::Duration write_deadline;
  // Who calls, by path and Authorization header; asked before the body is read.
  std::function<absl::StatusOr<Caller>(std::string_view path, std::string_view authorization)>
      identify;
  std::shared_ptr<BodyBudget> bodies;
  std::function<void(HttpCall&)> router;
  std::function<std::string()> make_request_id;
  std::function<TraceContext(std::string_view traceparent)> continue_trace;
  std::function<void(const AuditLine&)> audit;  // told of every call at its end
  std::function<absl::Time()> now;              // stamps the arrival of requests
  std::function<bool()> draining;               // answers then say "connection: close"
};

class HttpServer {
 public:
  HttpServer(IoPool& pool, HttpOptions options, Metrics& metrics);
  ~HttpServer();

  absl::StatusOr<Address> Start(const Address& address);
  // Closes the listener and idle connections; others end with their answer. Idempotent.
  void Stop();
  // Ends every connection whatever it is doing, once the pool has run what this posts.
  void CutOff();

  struct Shared;  // what sessions and listener share; outlives both
 private:
  const std::shared_ptr<Shared> shared_;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_HTTP_HTTP_SERVER_H_
