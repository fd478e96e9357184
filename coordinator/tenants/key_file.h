// The file of tenants and API keys: JSON, checked completely before any of it is used. It holds
// digests of keys, never the keys. Pure but for ReadKeyFile; any thread.

#ifndef TESSERA_COORDINATOR_TENANTS_KEY_FILE_H_
#define TESSERA_COORDINATOR_TENANTS_KEY_FILE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/tenants/tenant.h"

namespace tessera {

inline constexpr size_t kKeyFileBytesMax = 4 << 20;
inline constexpr size_t kTenantsMax = 1000;
inline constexpr size_t kKeysMax = 10'000;
inline constexpr size_t kTenantNameBytesMax = 64;  // [A-Za-z0-9._-]
inline constexpr size_t kApiKeyBytesMax = 256;

using KeyDigest = std::array<uint8_t, 32>;  // SHA-256 of the key's bytes

KeyDigest DigestOf(std::string_view api_key);

struct ApiKey {
  KeyDigest digest = {};
  size_t tenant = 0;  // index in KeyFile::tenants
  absl::Time expires = absl::InfiniteFuture();
};

struct KeyFile {
  std::vector<Tenant> tenants;
  std::vector<ApiKey> keys;
};

// INVALID_ARGUMENT naming line and field: "line 7: tenants[1].weight is 0, must be above 0".
absl::StatusOr<KeyFile> ParseKeyFile(std::string_view json);
// The error names the file too.
absl::StatusOr<KeyFile> ReadKeyFile(const std::string& path);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TENANTS_KEY_FILE_H_
