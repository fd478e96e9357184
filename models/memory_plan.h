// Bytes per rank, before anything is loaded: weights, KV per token, activations, reserve -> blocks,
// tokens, concurrency. The coordinator sends the outcome in Assign; `tessera inspect` prints it.

#ifndef TESSERA_MODELS_MEMORY_PLAN_H_
#define TESSERA_MODELS_MEMORY_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "models/model_spec.h"

namespace tessera {

struct MemoryRequest {
  int tp = 1;
  DType dtype = DType::kBFloat16;  // weights and activations
  DType kv_dtype = DType::kBFloat16;
  bool float8_weights = false;     // see MayBeFloat8
  uint64_t budget_bytes = 0;       // what one rank may use in all
  int64_t block_size = 16;         // tokens
  int64_t context_max = 0;         // tokens of one sequence; 0: the model's own
  int64_t tokens_max = 2048;       // of one step
  int64_t chunk_max = 512;         // of one sequence in one step
  int64_t rows_max = 256;          // of one step
  uint64_t kv_bytes_max = 0;       // cap on the KV pool; 0: what is left
  double reserve_fraction = 0.05;  // of the budget, kept free
};

struct MemoryPlan {
  uint64_t weight_bytes_sharded = 0;  // of this rank
  uint64_t weight_bytes_replicated = 0;
  uint64_t activation_bytes = 0;
  uint64_t reserve_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t kv_bytes_per_token = 0;      // of this rank, all layers, inside every window
  uint64_t kv_bytes_per_sequence = 0;   // of context_max tokens, without what windows leave behind
  std::vector<uint32_t> num_blocks;     // per KvGroup
  int64_t kv_tokens = 0;                // of sequences of context_max that fit
  int64_t context_max = 0;              // tokens
  double sequences_at_context_max = 0;  // kv_tokens / context_max

  uint64_t weight_bytes() const { return weight_bytes_sharded + weight_bytes_replicated; }
  uint64_t total_bytes() const {
    return weight_bytes() + activation_bytes + reserve_bytes + kv_bytes;
  }
};

// RESOURCE_EXHAUSTED says how much is missing and what would fit: a larger tp, a shorter context,
// less memory per step, or how many bytes one rank would need.
absl::StatusOr<MemoryPlan> PlanMemory(const ModelSpec& spec, const MemoryRequest& request);

// A table for people, one line per item, in GiB or MiB as fits.
std::string DescribeMemoryPlan(const ModelSpec& spec, const MemoryRequest& request,
                               const MemoryPlan& plan);

}  // namespace tessera

#endif  // TESSERA_MODELS_MEMORY_PLAN_H_
