// The weights of one rank: its shard of every tensor, in the layout the ops want. Loaded once from
// a checkpoint, immutable afterwards, shared by the decoders of successive assignments (they
// survive a lost group). Loading runs on the rank's thread, touches each byte of the shard once and
// lets the mapped pages go behind it.

#ifndef TESSERA_WORKER_WEIGHTS_H_
#define TESSERA_WORKER_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kernels/ops.h"
#include "models/checkpoint.h"
#include "models/model_spec.h"

namespace tessera {

// One expert's.
struct ExpertWeights {
  std::unique_ptr<Weight> gate_up;  // [2 * Ie, C]: gate rows, up rows
  std::unique_ptr<Weight> down;     // [C, Ie]
};

// C hidden size, H and K heads of this rank, D head size, I intermediate size of this rank, A model
// dtype; L, N, R, V sizes of latent attention; E experts of the whole model, Ie their and Is the
// shared one's intermediate size. What a layer does not have is an empty view or null.
struct LayerWeights {
  TensorView input_norm;       // [C] A
  TensorView input_norm_bias;  // [C] A
  // [(H + 2K) * D, C]: query heads, key heads, value heads. Of latent attention: the narrow queries
  // [query rank] or else query heads [H * (N + R)], then latent and turning part of the key [L +
  // R].
  std::unique_ptr<Weight> qkv;
  TensorView qkv_bias;                    // [(H + 2K) * D] A
  TensorView query_norm;                  // [D] A
  TensorView key_norm;                    // [D] A
  TensorView query_down_norm;             // [query rank] A
  std::unique_ptr<Weight> query_up;       // [H * (N + R), query rank]
  TensorView latent_norm;                 // [L] A
  std::unique_ptr<Weight> key_up;         // [H * L, N]: per head, from query to latent
  std::unique_ptr<Weight> value_up;       // [H * V, L]: per head
  std::unique_ptr<Weight> output;         // [C, H * D or H * V], row-parallel
  TensorView output_bias;                 // [C] A, added once to the sum over ranks
  TensorView attention_out_norm;          // [C] A, of that sum
  TensorView post_norm;                   // [C] A, before the MLP
  TensorView post_norm_bias;              // [C] A
  std::unique_ptr<Weight> gate_up;        // [2 * I, C]: gate rows, up rows; or the shared expert's
  TensorView gate_up_bias;                // [2 * I] A
  std::unique_ptr<Weight> down;           // [C, I], row-parallel; or the shared expert's
  TensorView down_bias;                   // [C] A
  TensorView mlp_out_norm;                // [C] A
  std::unique_ptr<Weight> router;         // [E, C]; null: a layer without experts
  TensorView router_correction;           // [E] float32
  std::vector<ExpertWeights> experts;     // this rank's, see ExpertsOf
  std::unique_ptr<Weight> shared_switch;  // [1, C]
};

struct Weights {
  DType dtype = DType::kBFloat16;
  int64_t vocab_begin = 0;       // first token of this rank's shard
  int64_t vocab_count = 0;       // Vs: real tokens of the shard, may be 0 on the last ranks
  TensorView embedding;          // [Vs, C] A
  TensorView final_norm;         // [C] A
  TensorView final_norm_bias;    // [C] A
  std::unique_ptr<Weight> head;  // [Vs, C]; null when Vs is 0
  TensorView head_bias;          // [Vs] A
  std::vector<LayerWeights> layers;

  // Of the checkpoint, 0 if it has no weights; a tied head's bytes count once.
  uint64_t bytes_read = 0;
  // Of these weights in memory. The embedding gather wants plain rows and the head wants packed
  // panels, so a tied head is resident twice, as the memory plan has it.
  uint64_t resident_bytes = 0;
  double seconds = 0;

  std::vector<Buffer> buffers;  // owns what the views above look at
};

struct WeightsOptions {
  int rank = 0;
  int tp = 1;
  DType dtype = DType::kBFloat16;  // float32 or bfloat16
  bool float8 = false;             // matrices that may be float8 are, see MayBeFloat8
};

// Called after every piece of at most about kLoadChunkBytes. A status that is not OK ends the load
// with it.
using LoadProgressFn = std::function<absl::Status(uint64_t bytes_read, uint64_t bytes_total)>;
inline constexpr int64_t kLoadChunkBytes = 1 << 20;

// Bytes that this rank will read, each counted once; without the scales of float8 blocks.
uint64_t ShardBytes(const ModelSpec& spec, const Checkpoint& checkpoint, int rank, int tp);

// RESOURCE_EXHAUSTED when memory is short, what `progress` says, or what CheckTensors says.
absl::StatusOr<std::unique_ptr<Weights>> LoadWeights(
    Ops& ops, const ExecContext& ctx, const ModelSpec& spec, const Checkpoint& checkpoint,
    const WeightsOptions& options, const Clock& clock, const LoadProgressFn& progress);

}  // namespace tessera

#endif  // TESSERA_WORKER_WEIGHTS_H_
