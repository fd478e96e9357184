// Which experts a token passes through: a warp per token, its scores in shared memory. The bits are
// the CPU's (kernels/cpu/routing.cc): sums run over experts in order, the lower id goes first among
// equals, and a token whose logits are not all finite gets the first experts with weights that are
// no numbers, so that its logits show it.

#include <cmath>

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/experts_kernels.h"

namespace tessera::cuda {
namespace {

// Keeps weights of experts that all score 0 from becoming NaN.
constexpr float kSumMin = 1e-20f;
constexpr unsigned kAll = 0xffffffffu;

__device__ float Never() { return __int_as_float(static_cast<int>(0xff800000u)); }
// What has been chosen: below every number, -inf among them.
__device__ float Taken() { return __int_as_float(0x7fc00000); }
__device__ float Known(float x) { return x == x ? x : Never(); }
__device__ int Lane() { return static_cast<int>(threadIdx.x); }

// Whether (a, i) goes before (b, j); NaNs go last.
__device__ bool Better(float a, int i, float b, int j) {
  if (a != a || b != b) return a == a || (b != b && i < j);
  return a > b || (a == b && i < j);
}

// Index of the largest of n, the first among equals, the same on every lane; 0 if all are NaN.
__device__ int WarpBest(const float* x, int n) {
  float best = Taken();
  int index = n;
  for (int i = Lane(); i < n; i += 32) {
    if (Better(x[i], i, best, index)) best = x[i], index = i;
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kAll, best, offset);
    const int other_index = __shfl_xor_sync(kAll, index, offset);
    if (Better(other, other_index, best, index)) best = other, index = other_index;
  }
  return best == best ? index : 0;
}

// The same by one lane alone.
__device__ int Best(const float* x, int n) {
  int best = 0;
  for (int i = 1; i < n; ++i) {
    if (x[i] > x[best] || (x[best] != x[best] && x[i] == x[i])) best = i;
  }
  return best;
}

__device__ void Softmax(const float* x, float* out, int n) {
  float max = Never();
  for (int i = Lane(); i < n; i += 32) max = fmaxf(x[i], max);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    max = fmaxf(__shfl_xor_sync(kAll, max, offset), max);
  }
  // Not exp(0): infinity minus infinity is not a number.
  for (int i = Lane(); i < n; i += 32) out[i] = x[i] < max ? ExactExp(x[i] - max) : 1.0f;
  __syncwarp();
  float sum = 0.0f;
  for (int i = 0; i < n; ++i) sum += out[i];
  __syncwarp();
  for (int i = Lane(); i < n; i += 32) out[i] = __fdiv_rn(out[i], sum);
  __syncwarp();
}

// Puts the experts of all but the best groups out of the choice. A lane has whole groups.
__device__ void KeepBestGroups(const RouteArguments& a, float* choice, float* rest, float* group) {
  const int size = a.experts / a.num_groups;
  for (int g = Lane(); g < a.num_groups; g += 32) {
    float* mine = rest + g * size;
    for (int i = 0; i < size; ++i) mine[i] = choice[g * size + i];
    float sum = 0.0f;
    for (int i = 0; i < a.group_top; ++i) {
      const int best = Best(mine, size);
      sum += mine[best];
      mine[best] = Taken();
    }
    group[g] = Known(sum);
  }
  __syncwarp();
  for (int i = 0; i < a.groups_per_token; ++i) {
    const int best = WarpBest(group, a.num_groups);
    __syncwarp();
    // NaN is taken, so what is kept is what is NaN in the end: every group was made a number.
    if (Lane() == 0) group[best] = Taken();
    __syncwarp();
  }
  for (int e = Lane(); e < a.experts; e += 32) {
    if (group[e / size] == group[e / size]) choice[e] = Never();
  }
  __syncwarp();
}

__device__ void MixSparsely(const RouteArguments& a, const float* logits, float* score,
                            float* choice, float* rest, int32_t* ids, float* weights) {
  for (int e = Lane(); e < a.experts; e += 32) choice[e] = Known(logits[e]);
  __syncwarp();
  for (int j = 0; j < a.count; ++j) {
    const int best = WarpBest(choice, a.experts);
    const float top = choice[best];
    for (int e = Lane(); e < a.experts; e += 32) {
      const float size = fabsf(logits[e]);
      const float distance = __fdiv_rn(top - logits[e], size < top ? top : size);
      rest[e] = distance > 2.0f * a.jitter ? Never() : Known(choice[e]);
    }
    __syncwarp();
    Softmax(rest, score, a.experts);
    if (Lane() == 0) {
      ids[j] = best;
      weights[j] = score[best];
      choice[best] = Taken();
    }
    __syncwarp();
  }
}

__device__ void ChooseBest(const RouteArguments& a, const float* logits, float* score,
                           float* choice, float* rest, int32_t* ids, float* weights) {
  if (a.scoring == ScoreForm::kSigmoid) {
    for (int e = Lane(); e < a.experts; e += 32) {
      score[e] = __fdiv_rn(1.0f, 1.0f + ExactExp(0.0f - logits[e]));
    }
    __syncwarp();
  } else {
    Softmax(logits, score, a.experts);
  }
  for (int e = Lane(); e < a.experts; e += 32) {
    choice[e] = Known(a.bias == nullptr ? score[e] : score[e] + a.bias[e]);
  }
  __syncwarp();
  if (a.num_groups > 1) KeepBestGroups(a, choice, rest, rest + a.experts);
  float sum = 0.0f;
  for (int j = 0; j < a.count; ++j) {
    const int best = WarpBest(choice, a.experts);
    sum += score[best];
    __syncwarp();
    if (Lane() == 0) {
      ids[j] = best;
      choice[best] = Taken();
    }
    __syncwarp();
  }
  for (int j = Lane(); j < a.count; j += 32) {
    float weight = score[ids[j]];
    if (a.normalize) weight = __fdiv_rn(weight, sum + kSumMin);
    weights[j] = weight * a.scale;
  }
}

__global__ void RouteKernel(const __grid_constant__ RouteArguments a) {
  extern __shared__ float scratch[];  // [5][experts]
  float* logits = scratch;
  float* score = logits + a.experts;
  float* choice = score + a.experts;
  float* rest = choice + a.experts;
  const int64_t token = blockIdx.x;
  const int64_t row = token * a.logits.stride;
  for (int e = Lane(); e < a.experts; e += 32) {
    logits[e] = a.bfloat16 ? Wide(static_cast<const Bf16*>(a.logits.data)[row + e])
                           : static_cast<const float*>(a.logits.data)[row + e];
  }
  __syncwarp();
  int32_t* ids = static_cast<int32_t*>(a.ids.data) + token * a.ids.stride;
  float* weights = static_cast<float*>(a.weights.data) + token * a.weights.stride;
  int finite = 1;
  for (int e = Lane(); e < a.experts; e += 32) finite &= isfinite(logits[e]) ? 1 : 0;
  if (!__all_sync(kAll, finite)) {
    for (int j = Lane(); j < a.count; j += 32) {
      ids[j] = j;
      weights[j] = Taken();
    }
    return;
  }
  if (a.scoring == ScoreForm::kSparseMixer) {
    MixSparsely(a, logits, score, choice, rest, ids, weights);
  } else {
    ChooseBest(a, logits, score, choice, rest, ids, weights);
  }
}

}  // namespace

void LaunchRoute(const RouteArguments& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  const size_t shared = sizeof(float) * 5 * a.experts;
  RouteKernel<<<static_cast<unsigned>(a.tokens), 32, shared, stream>>>(a);
}

}  // namespace tessera::cuda
