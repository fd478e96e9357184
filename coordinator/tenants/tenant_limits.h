// How much each tenant may ask for: requests in flight and tokens per minute. Asked by the front
// doors before a request is submitted, on any thread; holds one small state per tenant. Pure: time
// comes in with every call.
//
// Tokens are charged when a request is admitted, with the most it could use, and what it did not
// use is given back at its end. The bucket holds one minute's worth. A request that costs more than
// that is admitted when the bucket is full, and the next one waits until the debt is paid.

#ifndef TESSERA_COORDINATOR_TENANTS_TENANT_LIMITS_H_
#define TESSERA_COORDINATOR_TENANTS_TENANT_LIMITS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/telemetry/metrics.h"
#include "coordinator/tenants/tenant.h"

namespace tessera {

class TenantLimits {
 private:
  struct State;

 public:
  // An admitted request's place. Ends by Release, or with its destructor, which takes it that all
  // that was charged was used. May outlive the TenantLimits.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept;
    ~Lease();

    // The request has ended, or was refused after all (0). A second call does nothing.
    void Release(int64_t tokens_used);
    bool held() const { return state_ != nullptr; }

   private:
    friend class TenantLimits;
    std::shared_ptr<State> state_;
    int64_t tokens_ = 0;
    absl::Duration charged_;
  };

  explicit TenantLimits(Metrics& metrics) : metrics_(metrics) {}

  // The tenants from now on. Those that stay keep what they hold and owe; those that are gone are
  // forgotten once their requests have ended.
  void Configure(absl::Span<const Tenant> tenants) ABSL_LOCKS_EXCLUDED(mutex_);
  // `tokens`: prompt + max_tokens x choices. RESOURCE_EXHAUSTED names the limit and carries a
  // Retry-After (engine/retry_after.h): for tokens exactly when they will be there, if nobody else
  // takes or gives back any. UNAUTHENTICATED for a tenant that there is not, or not any more.
  absl::StatusOr<Lease> TryAdmit(const std::string& tenant, int64_t tokens, absl::Time now)
      ABSL_LOCKS_EXCLUDED(mutex_);
  struct InFlight {
    std::string tenant;
    int64_t requests = 0;
  };
  // Of every tenant there is, in no order.
  std::vector<InFlight> ListInFlight() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Metrics& metrics_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<State>> states_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TENANTS_TENANT_LIMITS_H_
