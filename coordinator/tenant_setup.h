// Opens the key file and the cache secret named on the command line, and brings later versions of
// the key file to those who must know. On main's thread.

#ifndef TESSERA_COORDINATOR_TENANT_SETUP_H_
#define TESSERA_COORDINATOR_TENANT_SETUP_H_

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "coordinator/engine/engine.h"
#include "coordinator/options.h"
#include "coordinator/telemetry/metrics.h"
#include "coordinator/tenants/key_file_watcher.h"
#include "coordinator/tenants/tenants.h"

namespace tessera {

class TenantSetup {
 public:
  // The error names the file and what is wrong with it. Warns loudly when strangers could call.
  static absl::StatusOr<std::unique_ptr<TenantSetup>> Open(const CoordinatorOptions& options,
                                                           Metrics& metrics);

  Tenants& tenants() { return tenants_; }
  bool has_key_file() const { return watcher_.has_value(); }
  // Tells the engine the tenants there are; after the engine's start.
  void Announce(Engine& engine) const { engine.Post(tenants_.Policies()); }
  // Takes over the key file if it has changed, or anyway when `forced`. One that is damaged is
  // logged, and the old tenants and keys stay.
  void Reload(Engine& engine, bool forced);

 private:
  TenantSetup(const ServerSecret& secret, Metrics& metrics) : tenants_(secret, metrics) {}

  Tenants tenants_;
  std::optional<KeyFileWatcher> watcher_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TENANT_SETUP_H_
