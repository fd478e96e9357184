// Which tensors a checkpoint must hold, where each belongs, and which part of it a rank keeps.

#ifndef TESSERA_MODELS_WEIGHT_SPEC_H_
#define TESSERA_MODELS_WEIGHT_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "models/model_spec.h"

namespace tessera {

class Checkpoint;

// The numbers of ranks that may share a model: divisors of the fixed 8-slice sums.
inline constexpr int kTensorParallelSizes[] = {1, 2, 4, 8};
// The slices of those sums, see kReduceSlices in kernels/ops.h. Experts are divided like columns.
inline constexpr int kSumSlices = 8;

// Places of the decoder. Layer slots come once per layer.
enum class WeightSlot {
  kEmbedding,
  kFinalNorm,
  kHead,
  kInputNorm,
  kQuery,
  kKey,
  kValue,
  kOutput,
  kQueryNorm,
  kKeyNorm,
  kAttentionOutNorm,
  kPostNorm,
  kGate,
  kUp,
  kDown,
  kMlpOutNorm,
  kQueryBias,
  kKeyBias,
  kValueBias,
  kOutputBias,
  kGateBias,
  kUpBias,
  kDownBias,
  // Latent attention. kQuery makes heads from what kQueryDown leaves, if there is that.
  kQueryDown,
  kQueryDownNorm,
  kLatentDown,
  kLatentNorm,
  kKeyUp,    // per head, latent to key
  kValueUp,  // per head, latent to value
  // Experts; the first two and the shared expert's are of the layer.
  kRouter,
  kRouterCorrection,
  kExpertGate,
  kExpertUp,
  kExpertDown,
  kSharedGate,
  kSharedUp,
  kSharedDown,
  kSharedSwitch,  // to the gate of the shared expert's output
  // Of layer norms, and of the head.
  kInputNormBias,
  kPostNormBias,
  kFinalNormBias,
  kHeadBias,
};

// How a tensor is divided over tp ranks.
enum class ShardRule {
  kReplicate,
  kRows,        // column-parallel product: each rank keeps rows of [N, K]
  kColumns,     // row-parallel product: each rank keeps columns of [N, K]
  kQueryHeads,  // rows, in whole heads
  kKvHeads,     // rows, in whole KV heads; replicated in groups of ranks when tp > num_kv_heads
  kVocab,       // rows, padded up so that every rank has the same number
  kExperts,     // the rank that has the expert keeps all of it
};

// What fills one slot: a stored tensor, or ranges of its rows where the checkpoint keeps several
// slots in one tensor.
struct WeightSpec {
  std::string name;  // Hugging Face tensor name
  WeightSlot slot;
  int layer = -1;              // -1: not of a layer
  std::vector<int64_t> shape;  // of this slot
  ShardRule rule;
  int64_t stored_begin = 0;  // the slot's first row in the stored tensor
  int64_t stored_rows = 0;   // of the stored tensor; 0: shape[0]
  // Rows come in runs of `run_rows`, whose starts are `run_stride` stored rows apart (a key and a
  // value range for every head); 0: one run.
  int64_t run_rows = 0;
  int64_t run_stride = 0;
  int expert = -1;  // -1: not of an expert

  std::vector<int64_t> StoredShape() const;
  int64_t Elements() const;
  // Of the stored tensor, for row `row` of the slot.
  int64_t StoredRow(int64_t row) const;
  // The tensor of its block scales, should it be stored in float8.
  std::string ScaleName() const { return name + "_scale_inv"; }
  // Its dtype on a rank that computes in `dtype`.
  DType ResidentDType(DType dtype) const {
    return slot == WeightSlot::kRouterCorrection ? DType::kFloat32 : dtype;
  }
};

// Whether the tensor is part of a matrix that may be kept as float8: the products inside the
// layers, but those of latent attention before its heads and the router's. What is fused agrees.
bool MayBeFloat8(const WeightSpec& weight, const ModelSpec& spec);

// The part of a tensor that one rank reads: a range of rows and a range of columns.
struct Shard {
  int64_t row_begin = 0;
  int64_t row_count = 0;    // rows that exist in the checkpoint
  int64_t rows_padded = 0;  // rows of the rank's matrix, >= row_count (kVocab)
  int64_t column_begin = 0;
  int64_t column_count = 0;
};

// The tensor table of a model: every slot exactly once, slots of one tensor side by side in the
// order of its rows. A tied head is not in it: the embedding serves as both.
std::vector<WeightSpec> WeightTable(const ModelSpec& spec);

// The same with the first expert of a layer for all of them, which are alike: what counts bytes and
// parameters asks here, as a table of all may have a million entries.
std::vector<WeightSpec> WeightTableOfOneExpert(const ModelSpec& spec);

// Tensors that some exporters add and that carry no weights (rotary inv_freq buffers, and
// lm_head.weight beside a tied head).
bool IsIgnorableTensor(const ModelSpec& spec, const std::string& name);

// OK if the checkpoint holds the tensors of the table, in their shapes and in a floating dtype,
// float8 ones with their scales, and none besides but ignorable ones. INVALID_ARGUMENT names the
// tensor that is missing, wrong or too many.
absl::Status CheckTensors(const ModelSpec& spec, const Checkpoint& checkpoint);

// Of a checkpoint that passed CheckTensors: OK if the small tensors that decide for whole tokens
// (norms, routers and their corrections, scales of float8) are finite numbers. INVALID_ARGUMENT
// names the tensor. Reads them all, some hundred MB of the largest models.
absl::Status CheckFinite(const ModelSpec& spec, const Checkpoint& checkpoint);

// INVALID_ARGUMENT naming the number that tp does not divide, and the tp values that work.
absl::Status CheckTensorParallel(const ModelSpec& spec, int tp);

// In rows of the slot. Vectors are treated as [n, 1].
Shard ShardOf(const WeightSpec& weight, const ModelSpec& spec, int rank, int tp);

// Query and KV heads of one rank. kv_begin counts in heads of the whole model.
struct HeadShard {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t kv_begin = 0;
};
HeadShard HeadsOf(const ModelSpec& spec, int rank, int tp);

struct ExpertRange {
  int64_t begin = 0;
  int64_t count = 0;
};
// Experts of one rank: those of its slices. May be none where there are fewer than slices.
ExpertRange ExpertsOf(const ModelSpec& spec, int rank, int tp);

}  // namespace tessera

#endif  // TESSERA_MODELS_WEIGHT_SPEC_H_
