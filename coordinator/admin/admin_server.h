// The operator's own door: what was used, by whom, and what it cost, over HTTP on a port that
// tenants do not see. Off unless asked for. Made, started and stopped by main; two threads of its
// own, so that a question that reads large files holds up nobody else.

#ifndef TESSERA_COORDINATOR_ADMIN_ADMIN_SERVER_H_
#define TESSERA_COORDINATOR_ADMIN_ADMIN_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/ledger/usage_book.h"
#include "coordinator/telemetry/metrics.h"

namespace tessera {

namespace api {
class AuditLog;
}

inline constexpr absl::Duration kAdminReadMax = absl::Seconds(60);  // reading for one answer
inline constexpr size_t kAdminConnectionsMax = 64;
inline constexpr size_t kAdminTokenBytesMin = 16;
inline constexpr size_t kAdminTokenBytesMax = 4096;

struct AdminOptions {
  std::string address;     // host:port, port 0 picks a free one
  std::string token_file;  // what callers must send as bearer token; empty: only for loopback
  api::AuditLog* audit = nullptr;  // null: no call is audited; must outlive the server
};

class AdminServer {
 public:
  // Everything must outlive the server. Reads the token. FAILED_PRECONDITION: others than this
  // machine could call, and there is no token.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Open(const AdminOptions& options,
                                                           UsageBook& book, const Clock& clock,
                                                           Metrics& metrics);
  ~AdminServer();
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;

  // Returns the bound address. UNAVAILABLE names one that cannot be bound. Once.
  absl::StatusOr<std::string> Start();
  void Stop();  // idempotent

 private:
  struct State;
  explicit AdminServer(std::unique_ptr<State> state);
  const std::unique_ptr<State> state_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ADMIN_ADMIN_SERVER_H_
