// How the memory of the KV cache is split over the model's KvGroups, and how much of it a sequence
// holds. Used by memory_plan.cc; pure arithmetic.

#ifndef TESSERA_MODELS_KV_POOL_PLAN_H_
#define TESSERA_MODELS_KV_POOL_PLAN_H_

#include <cstdint>
#include <vector>

#include "models/memory_plan.h"
#include "models/model_spec.h"

namespace tessera {

// Bytes of one token in the cache of one group, on one rank.
uint64_t KvBytesPerToken(const KvGroup& group, const MemoryRequest& request);

// Bytes that one sequence of `tokens` tokens holds: between its decode steps, and at most, while
// its prompt is computed. Blocks behind a window are given back, those of a chunk come at once.
uint64_t KvBytesAtRest(const ModelSpec& spec, const MemoryRequest& request, int64_t tokens);
uint64_t KvBytesAtMost(const ModelSpec& spec, const MemoryRequest& request, int64_t tokens);

struct KvPoolPlan {
  std::vector<uint32_t> num_blocks;  // per KvGroup
  uint64_t bytes = 0;
  // Of sequences of context_max tokens that fit; at least context_max if one fits.
  int64_t tokens = 0;
};

// Every group gets what one sequence of `context_max` needs at most; what is left is split in the
// proportion in which sequences of kTypicalTokens hold it.
inline constexpr int64_t kTypicalTokens = 8192;
KvPoolPlan SplitKvPool(const ModelSpec& spec, const MemoryRequest& request, int64_t context_max,
                       uint64_t pool_bytes);

}  // namespace tessera

#endif  // TESSERA_MODELS_KV_POOL_PLAN_H_
