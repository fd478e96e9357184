// Every front door of the coordinator: HTTP (OpenAI), gRPC (tessera.v1) and a health-only gRPC
// port, with the I/O threads they share and the timer that turns progress into health. Made,
// started, drained and stopped by main, on main's thread.

#ifndef TESSERA_COORDINATOR_API_API_SERVER_H_
#define TESSERA_COORDINATOR_API_API_SERVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/api/served_model.h"
#include "coordinator/engine/engine.h"
#include "coordinator/ledger/pricing.h"
#include "coordinator/telemetry/metrics.h"
#include "coordinator/tenants/caller.h"
#include "coordinator/tenants/tenant_limits.h"

namespace tessera {

namespace api {
class AuditLog;
}  // namespace api

struct ApiOptions {
  // host:port, [v6]:port; the host is numeric or "localhost", port 0 picks a free one. Empty: that
  // door stays shut.
  std::string http_address = "127.0.0.1:8000";
  std::string grpc_address = "127.0.0.1:50051";
  std::string health_address;                           // grpc.health.v1 alone
  bool reflection = false;                              // gRPC server reflection
  int io_threads = 2;                                   // JSON, templates, tokenizing, stop strings
  std::string version = "0.1.0";                        // of /version and tessera_build_info
  size_t connections_max = 4096;                        // HTTP, open at once
  absl::Duration idle_deadline = absl::Seconds(75);     // between two requests
  absl::Duration read_deadline = absl::Seconds(30);     // first byte of a request to its last
  absl::Duration write_deadline = absl::Seconds(30);    // one write to a slow reader
  absl::Duration progress_deadline = absl::Seconds(5);  // of a group that counts as ready
  size_t body_bytes_max = size_t{256} << 20;            // of all request bodies held at once
  Authenticate authenticate;                            // unset: everybody is the tenant "default"
  TenantLimits* limits = nullptr;                       // null: none; must outlive the server
  const Pricing* pricing =
      nullptr;                     // null: answers say nothing about cost; must outlive the server
  api::AuditLog* audit = nullptr;  // null: no call is audited; must outlive the server
  std::optional<bool> console;     // at / of the HTTP door; unset: if that is on loopback
  std::optional<uint64_t> seed;    // of drawn seeds and ids; unset: from the operating system
};

// Where the doors are, after Start: "127.0.0.1:8000". Empty where a door stays shut.
struct ApiAddresses {
  std::string http;
  std::string grpc;
  std::string health;
  std::string console;  // "http://127.0.0.1:8000/"; empty where there is none
};

class ApiServer {
 public:
  // Engine, clock and metrics must outlive the server. models[i].index == i.
  ApiServer(ApiOptions options, std::vector<ServedModel> models, Engine& engine, const Clock& clock,
            Metrics& metrics);
  ~ApiServer();
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  // Opens the doors. UNAVAILABLE names the address that cannot be bound, why, and what to do. Once.
  absl::StatusOr<ApiAddresses> Start();
  // Every model has a ready group that makes progress, and no drain has begun. Any thread.
  bool Ready() const;
  // Nobody computes this model (its index) any more: its open requests end with `reason`, which
  // clients read, new ones are refused with it. RegainModel: it has a group again. Any thread.
  void LoseModel(uint32_t model, absl::Status reason);
  void RegainModel(uint32_t model);
  // Health turns NOT_SERVING, new requests are refused with 503 / UNAVAILABLE; open streams go on.
  // The caller then drains the engine.
  void BeginDrain();
  // Shuts the doors; what is still open is cut off within two seconds, so stop the engine before:
  // it ends what is open with a reason. Idempotent; before the Engine's destruction.
  void Stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_API_API_SERVER_H_
