// Who is calling and what that allows: API keys, tenants, limits, and the keys of their cache
// domains. Made by main, which also reloads it; asked by the front doors on any thread.
//
// Without a key file everybody is the tenant "default", which has no limits.

#ifndef TESSERA_COORDINATOR_TENANTS_TENANTS_H_
#define TESSERA_COORDINATOR_TENANTS_TENANTS_H_

#include <memory>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "coordinator/telemetry/metrics.h"
#include "coordinator/tenants/caller.h"
#include "coordinator/tenants/key_file.h"
#include "coordinator/tenants/server_secret.h"
#include "coordinator/tenants/tenant.h"
#include "coordinator/tenants/tenant_limits.h"

namespace tessera {

class Tenants {
 public:
  // Open to everybody until a key file is loaded.
  Tenants(const ServerSecret& secret, Metrics& metrics);
  ~Tenants();
  Tenants(const Tenants&) = delete;
  Tenants& operator=(const Tenants&) = delete;

  // From now on only these keys and tenants. What runs goes on. One thread.
  void Use(KeyFile file) ABSL_LOCKS_EXCLUDED(mutex_);

  // The caller that holds this key ("" where none was given). UNAUTHENTICATED for no key, an
  // unknown one, or one that has expired.
  absl::StatusOr<Caller> Identify(std::string_view api_key, absl::Time now) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  TenantLimits& limits() { return limits_; }
  // What the scheduler must know; again after each Use.
  SetTenants Policies() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Snapshot;
  void Install(KeyFile file, bool open) ABSL_LOCKS_EXCLUDED(mutex_);
  ServerSecret::Bytes PlaceOf(const KeyDigest& digest) const;
  std::shared_ptr<const Snapshot> snapshot() const ABSL_LOCKS_EXCLUDED(mutex_);

  const ServerSecret secret_;
  Metrics& metrics_;
  TenantLimits limits_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const Snapshot> snapshot_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TENANTS_TENANTS_H_
