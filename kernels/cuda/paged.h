// Where a position of a row lies in the cache, and which row a token belongs to. A block id outside
// the layer ends the kernel (and with it the process: the plan was checked, so the bug is ours).

#ifndef TESSERA_KERNELS_CUDA_PAGED_H_
#define TESSERA_KERNELS_CUDA_PAGED_H_

#include "kernels/cuda/attention_kernels.h"

namespace tessera::cuda {

// The step's row of token `token`.
__device__ inline int RowOf(const StepArguments& step, int token) {
  int low = 0;
  int high = step.num_rows;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (step.query_begin[middle] <= token) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

__device__ inline int64_t BlockOf(const KvArguments& kv, const StepArguments& step, int row,
                                  int position) {
  const int index = position / kv.block_size;
  if (position < 0 || index >= step.table_blocks) __trap();
  const int block = step.block_table[row * step.table_stride + index];
  if (block < 0 || block >= kv.num_blocks) __trap();
  return block;
}

// Key of `head` at `slot` of `block`; its value lies block_size * head_size elements behind,
// in a latent layer at the same place.
template <typename Kv>
__device__ inline Kv* KeyAt(const KvArguments& kv, int64_t block, int head, int slot) {
  const int64_t half = static_cast<int64_t>(kv.block_size) * kv.head_size;
  return static_cast<Kv*>(kv.storage) + (block * kv.num_heads + head) * (kv.latent ? 1 : 2) * half +
         static_cast<int64_t>(slot) * kv.head_size;
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_PAGED_H_
