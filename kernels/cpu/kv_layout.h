// How one layer's keys and values lie in KvLayer::storage. Per block and KV head: keys
// [D][block_size], tokens side by side, because a score tile runs over tokens; then values
// [block_size][D], because the weighted sum runs over D. A latent layer has keys only. A block is
// contiguous. Read and written by rope.cc and attention.cc.

#ifndef TESSERA_KERNELS_CPU_KV_LAYOUT_H_
#define TESSERA_KERNELS_CPU_KV_LAYOUT_H_

#include <cstdint>

#include "kernels/ops.h"

namespace tessera::cpu {

// Elements of one KV head in one block.
inline int64_t KvHeadElements(const KvLayer& kv) {
  return (kv.latent ? 1 : 2) * kv.head_size * kv.block_size;
}

// Elements of one block.
inline int64_t KvBlockElements(const KvLayer& kv) { return kv.num_heads * KvHeadElements(kv); }

// Keys of `head` in `block`: element (d, slot) at [d * block_size + slot].
template <typename T>
T* KeyBlock(const KvLayer& kv, int64_t block, int64_t head) {
  return kv.storage.as<T>() + block * KvBlockElements(kv) + head * KvHeadElements(kv);
}

// Values of `head` in `block`, of a layer that is not latent: element (slot, d) at [slot *
// head_size + d].
template <typename T>
T* ValueBlock(const KvLayer& kv, int64_t block, int64_t head) {
  return KeyBlock<T>(kv, block, head) + kv.head_size * kv.block_size;
}

// Block of `position` in row `row`'s table; ends the process when it is none of the layer's.
inline int64_t BlockOf(const KvLayer& kv, const StepView& step, int64_t row, int64_t position) {
  const int64_t index = position / kv.block_size;
  TESSERA_CHECK(position >= 0 && index < step.block_table.dims[1])
      << "row " << row << ": position " << position << " past its block table";
  const int64_t block = step.block_table.as<const int32_t>()[row * step.block_table.stride + index];
  TESSERA_CHECK(block >= 0 && block < kv.num_blocks)
      << "row " << row << ": block " << block << " of " << kv.num_blocks << " at position "
      << position;
  return block;
}

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_KV_LAYOUT_H_
