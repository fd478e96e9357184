// A secret that only this process (or the processes that read the same file) knows, and what is
// derived from it: the keys under which cached blocks are hashed, so that no tenant can meet
// another's blocks or probe for them, and the order in which API keys lie. Immutable; any thread.

#ifndef TESSERA_COORDINATOR_TENANTS_SERVER_SECRET_H_
#define TESSERA_COORDINATOR_TENANTS_SERVER_SECRET_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "coordinator/sched/request.h"
#include "coordinator/tenants/tenant.h"

namespace tessera {

inline constexpr size_t kSecretFileBytesMin = 32;
inline constexpr size_t kSecretFileBytesMax = 4096;

class ServerSecret {
 public:
  using Bytes = std::array<uint8_t, 32>;

  explicit ServerSecret(const Bytes& bytes) : bytes_(bytes) {}
  // A new one from the operating system.
  static absl::StatusOr<ServerSecret> Draw();
  // The same in every process that reads this file.
  static absl::StatusOr<ServerSecret> FromFile(const std::string& path);

  // HMAC-SHA256 of both. Says nothing about the secret or about any other.
  Bytes Derive(std::string_view purpose, std::string_view name) const;
  // Where a tenant's requests find and leave blocks. num_shared_tokens is each request's own.
  CacheDomain CacheOf(const Tenant& tenant) const;

 private:
  Bytes bytes_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TENANTS_SERVER_SECRET_H_
