// What the kernels of experts are told, beside the grouped products of gemm_kernels.h: choosing
// experts, putting the chosen pairs in order, summing what they return. Asynchronous; shapes were
// checked by experts.cc. Nothing here is read back by the host, so that steps can be captured.

#ifndef TESSERA_KERNELS_CUDA_EXPERTS_KERNELS_H_
#define TESSERA_KERNELS_CUDA_EXPERTS_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/gemm_kernels.h"
#include "kernels/cuda/row_kernels.h"

namespace tessera::cuda {

enum class ScoreForm { kSoftmax, kSigmoid, kSparseMixer };

// See RoutingSpec. T tokens, E experts, of which `count` are chosen.
struct RouteArguments {
  int64_t tokens = 0;
  int experts = 0;
  int count = 0;
  bool bfloat16 = true;  // of logits; else float32
  Rows logits;
  const float* bias = nullptr;  // [E]
  Rows ids;                     // int32
  Rows weights;                 // float32
  ScoreForm scoring = ScoreForm::kSoftmax;
  int num_groups = 1;
  int groups_per_token = 1;
  int group_top = 1;
  bool normalize = false;
  float scale = 1.0f;
  float jitter = 0.0f;
};
void LaunchRoute(const RouteArguments& arguments, cudaStream_t stream);

// One of the places [T, k] of a token's experts, those of this rank first, in order of id.
struct ExpertSlot {
  int32_t pair = -1;  // row of the grouped products; -1: not of this rank
  int32_t slice = 0;  // counted from this rank's first
  float weight = 0.0f;
};

// Puts the (token, expert) pairs of this rank in order of expert.
struct GroupArguments {
  int64_t tokens = 0;
  int per_token = 0;  // k
  Rows ids;           // int32
  Rows weights;       // float32
  int num_experts = 0;
  int first_expert = 0;  // of this rank
  int own = 0;           // experts of this rank, at most kProductGroupsMax
  int first_slice = 0;
  int num_slices = 8;
  int tile_rows = kSkinnyTileRows;
  int32_t* pair_token = nullptr;  // [pairs]
  ExpertSlot* slots = nullptr;    // [T * k]
  ProductTile* tiles = nullptr;
  int32_t* counts = nullptr;  // [2]: pairs, tiles
  long long* load = nullptr;  // += pairs
};
void LaunchGroupPairs(const GroupArguments& arguments, cudaStream_t stream);

// out [T, C] float32 = the tree over slices of (sum of weight * pair row, plus the shared
// expert's).
struct CombineArguments {
  int64_t tokens = 0;
  int64_t columns = 0;  // C
  int per_token = 0;
  int num_slices = 8;
  const ExpertSlot* slots = nullptr;
  const float* pairs = nullptr;   // [pairs, C]
  const float* shared = nullptr;  // [num_slices, T, C], or null
  Rows gate;                      // [T, 1] float32; null: 1
  Rows out;
};
void LaunchCombine(const CombineArguments& arguments, cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_EXPERTS_KERNELS_H_
