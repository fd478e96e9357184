// Lookup of keys; see tenants.h. A key is found by the SHA-256 of what was sent, hashed once more
// under a secret of this process: how long the search takes depends on nothing that a stranger
// could steer or read, and the last comparison takes the same time whatever differs.

#include "coordinator/tenants/tenants.h"

#include <openssl/crypto.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

Tenant OpenTenant() {
  Tenant tenant;
  tenant.name = kDefaultTenant;
  tenant.priority_max = kPriorityMax;
  return tenant;
}

}  // namespace

struct Tenants::Snapshot {
  bool open = false;  // no key is asked for; tenants[0] is everybody
  std::vector<Tenant> tenants;
  std::vector<Caller> callers;                            // of tenants
  absl::flat_hash_map<ServerSecret::Bytes, ApiKey> keys;  // by PlaceOf(digest)
};

Tenants::Tenants(const ServerSecret& secret, Metrics& metrics)
    : secret_(secret), metrics_(metrics), limits_(metrics) {
  KeyFile nobody;
  nobody.tenants.push_back(OpenTenant());
  Install(std::move(nobody), /*open=*/true);
}

Tenants::~Tenants() = default;

void Tenants::Use(KeyFile file) { Install(std::move(file), /*open=*/false); }

void Tenants::Install(KeyFile file, bool open) {
  auto next = std::make_shared<Snapshot>();
  next->open = open;
  for (const Tenant& tenant : file.tenants) {
    Caller caller;
    caller.tenant = tenant.name;
    caller.models = tenant.models;
    caller.priority = tenant.priority;
    caller.priority_max = tenant.priority_max;
    caller.cache = secret_.CacheOf(tenant);
    caller.share_system_prompt = tenant.share_system_prompt;
    next->callers.push_back(std::move(caller));
  }
  for (const ApiKey& key : file.keys) next->keys.emplace(PlaceOf(key.digest), key);
  next->tenants = std::move(file.tenants);
  // Limits first: nobody is let in whose limits are not there yet.
  limits_.Configure(next->tenants);
  absl::MutexLock lock(&mutex_);
  snapshot_ = std::move(next);
}

ServerSecret::Bytes Tenants::PlaceOf(const KeyDigest& digest) const {
  return secret_.Derive(
      "place of API key",
      std::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

std::shared_ptr<const Tenants::Snapshot> Tenants::snapshot() const {
  absl::MutexLock lock(&mutex_);
  return snapshot_;
}

absl::StatusOr<Caller> Tenants::Identify(std::string_view api_key, absl::Time now) const {
  const std::shared_ptr<const Snapshot> current = snapshot();
  if (current->open) return current->callers.front();
  if (api_key.empty()) {
    metrics_.CountAuthFailure("missing");
    return absl::UnauthenticatedError(
        "this server needs an API key; send it as `Authorization: Bearer KEY`");
  }
  const KeyDigest digest = DigestOf(api_key.substr(0, kApiKeyBytesMax + 1));
  const auto found = current->keys.find(PlaceOf(digest));
  if (found == current->keys.end() ||
      CRYPTO_memcmp(found->second.digest.data(), digest.data(), digest.size()) != 0) {
    metrics_.CountAuthFailure("unknown");
    return absl::UnauthenticatedError("this API key is not known here");
  }
  if (now >= found->second.expires) {
    metrics_.CountAuthFailure("expired");
    return absl::UnauthenticatedError(absl::StrCat(
        "this API key has expired at ",
        absl::FormatTime(absl::RFC3339_sec, found->second.expires, absl::UTCTimeZone())));
  }
  return current->callers[found->second.tenant];
}

SetTenants Tenants::Policies() const {
  SetTenants policies;
  for (const Tenant& tenant : snapshot()->tenants) {
    policies.tenants.push_back(
        {.name = tenant.name, .weight = tenant.weight, .kv_share = tenant.kv_share});
  }
  return policies;
}

}  // namespace tessera
