// Places and token buckets; see tenant_limits.h. The bucket is one point in time: `full_at`, when
// it will be full again. A token is worth minute / tokens_per_minute, so that charging, waiting and
// giving back are additions without rounding, and a new rate keeps the debt as it stands.

#include "coordinator/tenants/tenant_limits.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/engine/retry_after.h"

namespace tessera {
namespace {

constexpr absl::Duration kBucketSize = absl::Minutes(1);
// Nobody knows when a request will end.
constexpr absl::Duration kRetryForAPlace = absl::Seconds(1);

}  // namespace

struct TenantLimits::State {
  absl::Mutex mutex;
  TenantLimitValues limits ABSL_GUARDED_BY(mutex);
  int64_t in_flight ABSL_GUARDED_BY(mutex) = 0;
  absl::Time full_at ABSL_GUARDED_BY(mutex) = absl::InfinitePast();
};

TenantLimits::Lease& TenantLimits::Lease::operator=(Lease&& other) noexcept {
  if (this == &other) return *this;
  Release(tokens_);
  state_ = std::move(other.state_);
  tokens_ = std::exchange(other.tokens_, 0);
  charged_ = std::exchange(other.charged_, absl::ZeroDuration());
  return *this;
}

TenantLimits::Lease::~Lease() { Release(tokens_); }

void TenantLimits::Lease::Release(int64_t tokens_used) {
  const std::shared_ptr<State> state = std::exchange(state_, nullptr);
  if (state == nullptr) return;
  absl::MutexLock lock(&state->mutex);
  --state->in_flight;
  if (tokens_used < tokens_) {
    state->full_at -= charged_ / tokens_ * (tokens_ - std::max<int64_t>(0, tokens_used));
  }
}

void TenantLimits::Configure(absl::Span<const Tenant> tenants) {
  absl::flat_hash_map<std::string, std::shared_ptr<State>> states;
  absl::MutexLock lock(&mutex_);
  for (const Tenant& tenant : tenants) {
    const auto known = states_.find(tenant.name);
    std::shared_ptr<State> state =
        known == states_.end() ? std::make_shared<State>() : known->second;
    {
      absl::MutexLock state_lock(&state->mutex);
      state->limits = tenant.limits;
    }
    states.emplace(tenant.name, std::move(state));
  }
  states_ = std::move(states);
}

std::vector<TenantLimits::InFlight> TenantLimits::ListInFlight() const {
  std::vector<InFlight> all;
  absl::MutexLock lock(&mutex_);
  all.reserve(states_.size());
  for (const auto& [tenant, state] : states_) {
    absl::MutexLock state_lock(&state->mutex);
    all.push_back({.tenant = tenant, .requests = state->in_flight});
  }
  return all;
}

absl::StatusOr<TenantLimits::Lease> TenantLimits::TryAdmit(const std::string& tenant,
                                                           int64_t tokens, absl::Time now) {
  TESSERA_CHECK(tokens >= 0) << "a request of " << tokens << " tokens";
  std::shared_ptr<State> state;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = states_.find(tenant);
    if (found != states_.end()) state = found->second;
  }
  if (state == nullptr) {
    return absl::UnauthenticatedError("the tenant of this API key is not served any more");
  }
  State& held = *state;
  absl::MutexLock lock(&held.mutex);
  const TenantLimitValues limits = held.limits;
  if (limits.requests_in_flight > 0 && held.in_flight >= limits.requests_in_flight) {
    metrics_.CountTenantRefused(tenant, "requests_in_flight");
    return WithRetryAfter(
        absl::ResourceExhaustedError(absl::StrCat(
            "tenant ", tenant, " has ", held.in_flight,
            " requests in flight, as many as its limit requests_in_flight allows; retry when one "
            "has ended")),
        kRetryForAPlace);
  }
  Lease lease;
  lease.tokens_ = tokens;
  if (limits.tokens_per_minute > 0) {
    lease.charged_ =
        kBucketSize * static_cast<double>(tokens) / static_cast<double>(limits.tokens_per_minute);
    const absl::Time full_at = std::max(held.full_at, now);
    const absl::Duration wait =
        (full_at - now) - (kBucketSize - std::min(lease.charged_, kBucketSize));
    if (wait > absl::ZeroDuration()) {
      metrics_.CountTenantRefused(tenant, "tokens_per_minute");
      return WithRetryAfter(
          absl::ResourceExhaustedError(
              absl::StrCat("tenant ", tenant, " has used up its limit tokens_per_minute of ",
                           limits.tokens_per_minute, "; this request may use ", tokens, " tokens")),
          wait);
    }
    held.full_at = full_at + lease.charged_;
  }
  ++held.in_flight;
  lease.state_ = std::move(state);
  return lease;
}

}  // namespace tessera
