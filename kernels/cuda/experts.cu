// What stands before and behind the grouped products of experts: pairs put in order of expert by
// one block, and the sum of what they return. In which order pairs of one expert lie is left to
// chance; a row of a product does not depend on its neighbours, and the sum goes by expert id.

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/experts_kernels.h"

namespace tessera::cuda {
namespace {

constexpr int kGroupThreads = 1024;
static_assert(kProductGroupsMax <= kGroupThreads);
constexpr int kCombineThreads = 256;
constexpr int kNotOwn = 1 << 30;  // above every expert id

// Sum of `x` over the threads before this one; `total` of all. `shared` holds 33 numbers.
__device__ int ExclusiveSum(int x, int* shared, int& total) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  int sum = x;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int below = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += below;
  }
  if (lane == 31) shared[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
  for (int w = 0; w < kGroupThreads / 32; ++w) {
    if (w < warp) before += shared[w];
    total += shared[w];
  }
  __syncthreads();
  return before + sum - x;
}

// Expert `id` as this rank counts, or kNotOwn.
__device__ int OwnExpert(const GroupArguments& a, int id) {
  const int expert = id - a.first_expert;
  return expert >= 0 && expert < a.own ? expert : kNotOwn;
}

__device__ int SliceOf(const GroupArguments& a, int id) {
  int slice = a.first_slice;
  while (slice + 1 < a.first_slice + a.num_slices &&
         static_cast<int64_t>(a.num_experts) * (slice + 1) / 8 <= id) {
    ++slice;
  }
  return slice - a.first_slice;
}

// Where among its token's slots place `j` goes: own experts in order of id, then the others.
__device__ int Rank(const GroupArguments& a, const int32_t* ids, int j) {
  const int key = OwnExpert(a, ids[j]);
  int rank = 0;
  for (int i = 0; i < a.per_token; ++i) {
    const int other = OwnExpert(a, ids[i]);
    rank += other < key || (other == key && i < j);
  }
  return rank;
}

__global__ void __launch_bounds__(kGroupThreads, 1)
    GroupKernel(const __grid_constant__ GroupArguments a) {
  __shared__ int next[kProductGroupsMax];  // pairs of an expert, then where its next one goes
  __shared__ int sums[33];
  const int me = static_cast<int>(threadIdx.x);
  if (me < a.own) next[me] = 0;
  __syncthreads();
  const int64_t places = a.tokens * a.per_token;
  for (int64_t i = me; i < places; i += kGroupThreads) {
    const int64_t row = i / a.per_token * a.ids.stride;
    const int id = static_cast<const int32_t*>(a.ids.data)[row + i % a.per_token];
    const int expert = OwnExpert(a, id);
    if (expert != kNotOwn) atomicAdd(&next[expert], 1);
  }
  __syncthreads();
  const int rows = me < a.own ? next[me] : 0;
  const int tiles = (rows + a.tile_rows - 1) / a.tile_rows;
  int all_rows = 0;
  int all_tiles = 0;
  const int begin = ExclusiveSum(rows, sums, all_rows);
  const int first_tile = ExclusiveSum(tiles, sums, all_tiles);
  for (int t = 0; t < tiles; ++t) {
    const int from = begin + t * a.tile_rows;
    const int to = from + a.tile_rows < begin + rows ? from + a.tile_rows : begin + rows;
    a.tiles[first_tile + t] = {me, from, to};
  }
  if (me < a.own) next[me] = begin;
  if (me == 0) {
    a.counts[0] = all_rows;
    a.counts[1] = all_tiles;
    *a.load += all_rows;
  }
  __syncthreads();
  for (int64_t i = me; i < places; i += kGroupThreads) {
    const int64_t token = i / a.per_token;
    const int j = static_cast<int>(i % a.per_token);
    const int32_t* ids = static_cast<const int32_t*>(a.ids.data) + token * a.ids.stride;
    const int expert = OwnExpert(a, ids[j]);
    ExpertSlot slot;
    if (expert != kNotOwn) {
      slot.pair = atomicAdd(&next[expert], 1);
      slot.slice = SliceOf(a, ids[j]);
      slot.weight = static_cast<const float*>(a.weights.data)[token * a.weights.stride + j];
      a.pair_token[slot.pair] = static_cast<int32_t>(token);
    }
    a.slots[token * a.per_token + Rank(a, ids, j)] = slot;
  }
}

// A thread per element of out.
__global__ void CombineKernel(const __grid_constant__ CombineArguments a) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kCombineThreads + threadIdx.x;
  const int64_t token = blockIdx.y;
  if (column >= a.columns) return;
  const ExpertSlot* slots = a.slots + token * a.per_token;
  float gate = 1.0f;
  if (a.gate.data != nullptr) {
    const float x = static_cast<const float*>(a.gate.data)[token * a.gate.stride];
    gate = __fdiv_rn(1.0f, 1.0f + ExactExp(0.0f - x));
  }
  float levels[4] = {};
  float sum = 0.0f;
  int next = 0;
  for (int s = 0; s < a.num_slices; ++s) {
    sum = 0.0f;
    for (; next < a.per_token; ++next) {
      const ExpertSlot slot = slots[next];
      if (slot.pair < 0 || slot.slice != s) break;
      sum = fmaf(a.pairs[slot.pair * a.columns + column], slot.weight, sum);
    }
    if (a.shared != nullptr) {
      sum = fmaf(a.shared[(s * a.tokens + token) * a.columns + column], gate, sum);
    }
    // A binary counter of partial sums; the carry of the last slice is the whole.
    int level = 0;
#pragma unroll
    for (int l = 0; l < 3; ++l) {
      if (level == l && ((s >> l) & 1)) {
        sum = levels[l] + sum;
        ++level;
      }
    }
#pragma unroll
    for (int l = 0; l < 4; ++l) {
      if (level == l) levels[l] = sum;
    }
  }
  static_cast<float*>(a.out.data)[token * a.out.stride + column] = sum;
}

}  // namespace

void LaunchGroupPairs(const GroupArguments& a, cudaStream_t stream) {
  GroupKernel<<<1, kGroupThreads, 0, stream>>>(a);
}

void LaunchCombine(const CombineArguments& a, cudaStream_t stream) {
  if (a.tokens == 0 || a.columns == 0) return;
  const dim3 grid(static_cast<unsigned>((a.columns + kCombineThreads - 1) / kCombineThreads),
                  static_cast<unsigned>(a.tokens));
  CombineKernel<<<grid, kCombineThreads, 0, stream>>>(a);
}

}  // namespace tessera::cuda
