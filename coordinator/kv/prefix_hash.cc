// Keyed hashing with libsodium; see prefix_hash.h. The first half of a key drives the function, the
// second half enters the root, so that all of it counts.

#include "coordinator/kv/prefix_hash.h"

#include <sodium.h>

#include <cstring>
#include <string>

#include "absl/container/inlined_vector.h"

namespace tessera {
namespace {

static_assert(crypto_shorthash_siphashx24_KEYBYTES == 16);
static_assert(crypto_shorthash_siphashx24_BYTES == sizeof(BlockHash));

BlockHash KeyedHash(const PrefixKey& key, const void* data, size_t bytes) {
  BlockHash hash;
  crypto_shorthash_siphashx24(reinterpret_cast<unsigned char*>(&hash),
                              static_cast<const unsigned char*>(data), bytes, key.data());
  return hash;
}

}  // namespace

BlockHash PrefixRoot(const PrefixKey& key, std::string_view salt) {
  std::string seed(reinterpret_cast<const char*>(key.data()) + 16, 16);
  seed += salt;
  return KeyedHash(key, seed.data(), seed.size());
}

BlockHash ChainBlock(const PrefixKey& key, const BlockHash& parent,
                     absl::Span<const int32_t> tokens) {
  constexpr size_t kHashWords = sizeof(BlockHash) / sizeof(int32_t);
  absl::InlinedVector<int32_t, 64 + kHashWords> input(kHashWords + tokens.size());
  std::memcpy(input.data(), &parent, sizeof(parent));
  std::memcpy(input.data() + kHashWords, tokens.data(), tokens.size() * sizeof(int32_t));
  return KeyedHash(key, input.data(), input.size() * sizeof(int32_t));
}

}  // namespace tessera
