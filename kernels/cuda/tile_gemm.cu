// Products of many tokens with the bits of SkinnyGemm: a block of eight warps owns 128 outputs by
// 64 tokens; steps of 64 k come through shared memory in a ring of stages. When a slice ends, its
// accumulators are folded into a binary counter of partial sums that lies in shared memory, each
// thread its own: the same tree as elsewhere.

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gemm_kernels.h"
#include "kernels/cuda/mma.h"
#include "kernels/cuda/product_rows.h"

namespace tessera::cuda {
namespace {

constexpr int kOutputs = 128;  // of a block
constexpr int kTokens = 64;
constexpr int kWarps = 8;  // four along the outputs, two along the tokens
constexpr int kThreads = 32 * kWarps;
constexpr int kStages = 4;
constexpr int kRowBytes = kProductStep * 2;
constexpr int kStageBytes = (kOutputs + kTokens) * kRowBytes;
constexpr int kOutTiles = 2;    // of a warp: 32 outputs
constexpr int kTokenTiles = 4;  // 32 tokens
constexpr int kSums = kOutTiles * kTokenTiles * 4;
constexpr int kLevels = 3;  // of the tree over eight slices
constexpr int kSharedBytes = kStages * kStageBytes + kLevels * kSums * kThreads * 4;
static_assert(kSharedBytes <= 227 << 10);

// Where chunk `chunk` (16 bytes) of a row lies: lanes of neighbouring rows use the other banks.
__device__ uint32_t Place(int row, int chunk) {
  return static_cast<uint32_t>(row * kRowBytes + ((chunk ^ ((row & 1) << 2)) << 4));
}

// Queues the copies of step `step` into its stage.
__device__ void CopyStep(const ProductArguments& a, const ProductRows<Bf16, Bf16>& rows,
                         int64_t step, int64_t output, uint32_t stage) {
  const int64_t k = step * kProductStep;
  for (int i = static_cast<int>(threadIdx.x); i < (kOutputs + kTokens) * 8; i += kThreads) {
    const int row = i / 8;
    const int chunk = i % 8;
    const Bf16* from = rows.w;
    bool exists = false;
    if (row < kOutputs) {
      exists = output + row < a.outputs;
      if (exists) from = rows.w + (output + row) * a.w_stride + k + chunk * 8;
    } else {
      const int64_t line = rows.begin + row - kOutputs;
      exists = line < rows.end;
      if (exists) from = rows.XRow(line, a.x_stride) + k + chunk * 8;
    }
    CopyAsync16(stage + Place(row, chunk), from, exists);
  }
}

__device__ void MultiplyStep(uint32_t stage, int warp_output, int warp_token,
                             float (&acc)[kOutTiles][kTokenTiles][4]) {
  const int g = static_cast<int>(threadIdx.x) % 32 / 4;
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int chunk = 4 * half + t;
    uint4 w[kOutTiles][2];
#pragma unroll
    for (int o = 0; o < kOutTiles; ++o) {
      w[o][0] = LoadShared16(stage + Place(warp_output + 16 * o + g, chunk));
      w[o][1] = LoadShared16(stage + Place(warp_output + 16 * o + 8 + g, chunk));
    }
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      const uint4 b = LoadShared16(stage + Place(kOutputs + warp_token + 8 * n + g, chunk));
#pragma unroll
      for (int o = 0; o < kOutTiles; ++o) {
        MmaBf16(acc[o][n], w[o][0].x, w[o][1].x, w[o][0].y, w[o][1].y, b.x, b.y);
        MmaBf16(acc[o][n], w[o][0].z, w[o][1].z, w[o][0].w, w[o][1].w, b.z, b.w);
      }
    }
  }
}

// Carries slice number `slice` into the counter; after the last one acc is the whole sum.
__device__ void FoldSlice(int slice, bool last, float* levels,
                          float (&acc)[kOutTiles][kTokenTiles][4]) {
  float* mine = levels + threadIdx.x;
  int level = 0;
  for (; (slice >> level) & 1; ++level) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      float& sum = acc[i / (4 * kTokenTiles)][i / 4 % kTokenTiles][i % 4];
      sum = mine[(level * kSums + i) * kThreads] + sum;
    }
  }
  if (last) return;
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    float& sum = acc[i / (4 * kTokenTiles)][i / 4 % kTokenTiles][i % 4];
    mine[(level * kSums + i) * kThreads] = sum;
    sum = 0.0f;
  }
}

__device__ void StoreTile(const ProductArguments& a, const ProductRows<Bf16, Bf16>& rows,
                          int64_t output, int64_t token,
                          const float (&acc)[kOutTiles][kTokenTiles][4]) {
  const int g = static_cast<int>(threadIdx.x) % 32 / 4;
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int o = 0; o < kOutTiles; ++o) {
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t row = output + 16 * o + g + (i >= 2 ? 8 : 0);
        const int64_t column = token + 8 * n + 2 * t + i % 2;
        if (row >= a.outputs || column >= rows.end) continue;
        StoreProduct<Bf16>(a, rows.out, column, row, acc[o][n][i]);
      }
    }
  }
}

template <typename Groups>
__global__ void __launch_bounds__(kThreads, 1)
    TileKernel(const __grid_constant__ ProductArguments a, const __grid_constant__ Groups groups,
               int64_t steps) {
  extern __shared__ __align__(16) uint8_t shared[];
  const ProductRows<Bf16, Bf16> rows = RowsOfBlock<Bf16, Bf16>(a, groups, kTokens);
  if (rows.begin >= rows.end) return;
  float* levels = reinterpret_cast<float*>(shared + kStages * kStageBytes);
  const uint32_t ring = SharedAddress(shared);
  const int64_t output = static_cast<int64_t>(blockIdx.x) * kOutputs;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_output = warp % 4 * 32;
  const int warp_token = warp / 4 * 32;
  float acc[kOutTiles][kTokenTiles][4] = {};
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) CopyStep(a, rows, s, output, ring + s * kStageBytes);
    CommitCopies();
  }
  int slice = 0;
  int64_t slice_end = (a.slice[0].packed_begin + a.slice[0].count) / kProductStep;
  for (int64_t step = 0; step < steps; ++step) {
    WaitForCopies<kStages - 2>();
    __syncthreads();
    // The stage that was read a step ago is free by now.
    const int64_t next = step + kStages - 1;
    if (next < steps) CopyStep(a, rows, next, output, ring + next % kStages * kStageBytes);
    CommitCopies();
    MultiplyStep(ring + static_cast<uint32_t>(step % kStages) * kStageBytes, warp_output,
                 warp_token, acc);
    if (step + 1 != slice_end) continue;
    FoldSlice(slice, slice + 1 == a.slices, levels, acc);
    if (++slice < a.slices) {
      slice_end = (a.slice[slice].packed_begin + a.slice[slice].count) / kProductStep;
    }
  }
  StoreTile(a, rows, output + warp_output, rows.begin + warp_token, acc);
}

template <typename Groups>
void LaunchTiles(const ProductArguments& a, const Groups& groups, int64_t tiles,
                 cudaStream_t stream) {
  const ProductSlice& last = a.slice[a.slices - 1];
  const int64_t steps = (last.packed_begin + last.count) / kProductStep;
  cudaFuncSetAttribute(TileKernel<Groups>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       kSharedBytes);
  const dim3 grid(static_cast<unsigned>((a.outputs + kOutputs - 1) / kOutputs),
                  static_cast<unsigned>(tiles), static_cast<unsigned>(a.heads));
  TileKernel<Groups><<<grid, kThreads, kSharedBytes, stream>>>(a, groups, steps);
}

}  // namespace

bool TileGemmTakes(const ProductArguments& a) {
  if (reinterpret_cast<uintptr_t>(a.x) % 16 != 0 || a.x_stride % 8 != 0) return false;
  if (a.heads > 1 && a.x_head % 8 != 0) return false;
  int64_t next = 0;
  for (int s = 0; s < a.slices; ++s) {
    const ProductSlice& slice = a.slice[s];
    if (slice.packed_begin != next || slice.x_begin != next || slice.count % kProductStep != 0) {
      return false;
    }
    next += slice.count;
  }
  return true;
}

void LaunchTileGemm(const ProductArguments& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  LaunchTiles(a, NoGroups(), (a.tokens + kTokens - 1) / kTokens, stream);
}

void LaunchTileGroups(const ProductArguments& a, const ProductGroups& groups, cudaStream_t stream) {
  static_assert(kTokens == kWideTileRows);
  if (groups.tiles_max > 0) LaunchTiles(a, groups, groups.tiles_max, stream);
}

}  // namespace tessera::cuda
