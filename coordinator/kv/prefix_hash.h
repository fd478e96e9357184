// Names of block contents: a keyed hash of a block's tokens and of everything before them. Whoever
// does not have the key can neither find a block nor guess what is cached. Pure; any thread.
//
// SipHash-2-4 with 128 bits of output (Aumasson, Bernstein 2012), a pseudo-random function: with a
// secret key, collisions cannot be searched for. A hit compares the tokens all the same.

#ifndef TESSERA_COORDINATOR_KV_PREFIX_HASH_H_
#define TESSERA_COORDINATOR_KV_PREFIX_HASH_H_

#include <array>
#include <cstdint>
#include <string_view>

#include "absl/types/span.h"

namespace tessera {

using PrefixKey = std::array<uint8_t, 32>;

struct BlockHash {
  uint64_t low = 0;
  uint64_t high = 0;

  friend bool operator==(const BlockHash& a, const BlockHash& b) {
    return a.low == b.low && a.high == b.high;
  }
  template <typename H>
  friend H AbslHashValue(H h, const BlockHash& hash) {
    return H::combine(std::move(h), hash.low, hash.high);
  }
};

// What a chain under `key` begins with. `salt`: whatever else the content depends on.
BlockHash PrefixRoot(const PrefixKey& key, std::string_view salt);
// The block that holds `tokens` (block_size of them) behind `parent`.
BlockHash ChainBlock(const PrefixKey& key, const BlockHash& parent,
                     absl::Span<const int32_t> tokens);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_KV_PREFIX_HASH_H_
