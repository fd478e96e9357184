// Products of few tokens, limited by reading the weights once. A block has one warp per slice of K;
// a warp streams 16 * kOutTiles weight rows past 8 * kTokenTiles tokens through the tensor cores,
// the weights as the 16-row operand, straight from memory into fragments (see kProductStep). The
// slices meet in shared memory.

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gemm_kernels.h"
#include "kernels/cuda/mma.h"
#include "kernels/cuda/product_rows.h"

namespace tessera::cuda {
namespace {

// The eight x elements from k on of one token, zeros where there are none (null: no token).
template <bool kAligned>
__device__ uint4 LoadX(const Bf16* x, int64_t k, int64_t count) {
  if (x == nullptr || k >= count) return make_uint4(0, 0, 0, 0);
  if constexpr (kAligned) {
    return *reinterpret_cast<const uint4*>(x + k);
  } else {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t at = k + 2 * i;
      words[i] = PackBf16(at < count ? Wide(x[at]) : 0.0f, at + 1 < count ? Wide(x[at + 1]) : 0.0f);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }
}

template <int kOutTiles, int kTokenTiles>
struct Accumulators {
  float c[kOutTiles][kTokenTiles][4] = {};
};

// One slice of the warp's tile: weight rows from w on, x[n] the row that this lane has of the n-th
// eight tokens.
template <int kOutTiles, int kTokenTiles, bool kAligned>
__device__ void RunSlice(const Bf16* w, int64_t w_stride, const Bf16* const (&x)[kTokenTiles],
                         int64_t count, Accumulators<kOutTiles, kTokenTiles>& acc) {
  const int g = static_cast<int>(threadIdx.x) / 4;
  const int t = static_cast<int>(threadIdx.x) % 4;
  w += g * w_stride + 8 * t;
#pragma unroll(kOutTiles == 1 ? 4 : kOutTiles == 2 ? 2 : 1)
  for (int64_t k = 0; k < count; k += kProductStep) {
    uint4 wide[kOutTiles][2][2];
#pragma unroll
    for (int o = 0; o < kOutTiles; ++o) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        wide[o][0][half] = LoadStreaming(w + 16 * o * w_stride + k + 32 * half);
        wide[o][1][half] = LoadStreaming(w + (16 * o + 8) * w_stride + k + 32 * half);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        const uint4 b = LoadX<kAligned>(x[n], k + 32 * half + 8 * t, count);
#pragma unroll
        for (int o = 0; o < kOutTiles; ++o) {
          const uint4& top = wide[o][0][half];
          const uint4& low = wide[o][1][half];
          MmaBf16(acc.c[o][n], top.x, low.x, top.y, low.y, b.x, b.y);
          MmaBf16(acc.c[o][n], top.z, low.z, top.w, low.w, b.z, b.w);
        }
      }
    }
  }
}

// The same with float8 weights: a lane has sixteen neighbouring k of a row, so the order of k is
// another one than bfloat16's.
template <int kOutTiles, int kTokenTiles, bool kAligned>
__device__ void RunSlice(const Float8* w, int64_t w_stride, const Bf16* const (&x)[kTokenTiles],
                         int64_t count, Accumulators<kOutTiles, kTokenTiles>& acc) {
  const int g = static_cast<int>(threadIdx.x) / 4;
  const int t = static_cast<int>(threadIdx.x) % 4;
  w += g * w_stride + 16 * t;
#pragma unroll(kOutTiles == 1 ? 4 : 2)
  for (int64_t k = 0; k < count; k += kProductStep) {
    uint4 packed[kOutTiles][2];
#pragma unroll
    for (int o = 0; o < kOutTiles; ++o) {
      packed[o][0] = LoadStreaming(w + 16 * o * w_stride + k);
      packed[o][1] = LoadStreaming(w + (16 * o + 8) * w_stride + k);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 b[kTokenTiles];
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        b[n] = LoadX<kAligned>(x[n], k + 16 * t + 8 * half, count);
      }
#pragma unroll
      for (int o = 0; o < kOutTiles; ++o) {
        const uint4& top = packed[o][0];
        const uint4& low = packed[o][1];
        uint32_t a[2][4];
        WidenFloat8(half == 0 ? top.x : top.z, a[0][0], a[0][1]);
        WidenFloat8(half == 0 ? top.y : top.w, a[0][2], a[0][3]);
        WidenFloat8(half == 0 ? low.x : low.z, a[1][0], a[1][1]);
        WidenFloat8(half == 0 ? low.y : low.w, a[1][2], a[1][3]);
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          MmaBf16(acc.c[o][n], a[0][0], a[1][0], a[0][1], a[1][1], b[n].x, b[n].y);
          MmaBf16(acc.c[o][n], a[0][2], a[1][2], a[0][3], a[1][3], b[n].z, b[n].w);
        }
      }
    }
  }
}

// part[slices] summed as ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), cut to `slices`.
__device__ float TreeSum(const float* part, int stride, int slices) {
  float sum[kSlicesMax];
#pragma unroll
  for (int s = 0; s < kSlicesMax; ++s) sum[s] = s < slices ? part[s * stride] : 0.0f;
  if (slices >= 2) {
#pragma unroll
    for (int s = 0; s < kSlicesMax; s += 2) sum[s] += sum[s + 1];
  }
  if (slices >= 4) {
    sum[0] += sum[2];
    sum[4] += sum[6];
  }
  if (slices == 8) sum[0] += sum[4];
  return sum[0];
}

template <typename W, int kOutTiles, int kTokenTiles, bool kAligned, typename Groups>
__global__ void SkinnyKernel(const __grid_constant__ ProductArguments a,
                             const __grid_constant__ Groups groups) {
  constexpr int kOutputs = 16 * kOutTiles;
  constexpr int kTokens = 8 * kTokenTiles;
  constexpr int kLine = kOutputs + 4;  // of shared memory: a token's outputs, and a bank apart
  extern __shared__ float parts[];     // [slices][kTokens][kLine]
  const ProductRows<Bf16, W> rows = RowsOfBlock<Bf16, W>(a, groups, kTokens);
  if (rows.begin >= rows.end) return;
  const int64_t output = static_cast<int64_t>(blockIdx.x) * kOutputs;
  const int warp = static_cast<int>(threadIdx.y);
  const int g = static_cast<int>(threadIdx.x) / 4;
  const int t = static_cast<int>(threadIdx.x) % 4;
  const ProductSlice& slice = a.slice[warp];
  const Bf16* x[kTokenTiles];
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
    const int64_t row = rows.begin + 8 * n + g;
    x[n] = row < rows.end ? rows.XRow(row, a.x_stride) + slice.x_begin : nullptr;
  }
  Accumulators<kOutTiles, kTokenTiles> acc;
  RunSlice<kOutTiles, kTokenTiles, kAligned>(rows.w + output * a.w_stride + slice.packed_begin,
                                             a.w_stride, x, slice.count, acc);
  float* mine = parts + warp * kTokens * kLine;
  const float* scale = rows.scale + (a.slice_scales ? warp * a.scale_stride : 0) + output;
#pragma unroll
  for (int o = 0; o < kOutTiles; ++o) {
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 16 * o + g + (i >= 2 ? 8 : 0);
        const int column = 8 * n + 2 * t + i % 2;
        float sum = acc.c[o][n][i];
        if constexpr (sizeof(W) == 1) sum *= scale[row];
        mine[column * kLine + row] = sum;
      }
    }
  }
  __syncthreads();
  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  for (int i = warp * 32 + static_cast<int>(threadIdx.x); i < kOutputs * kTokens; i += threads) {
    const int64_t n = output + i % kOutputs;
    const int64_t m = rows.begin + i / kOutputs;
    if (n >= a.outputs || m >= rows.end) continue;
    const float sum =
        TreeSum(parts + i / kOutputs * kLine + i % kOutputs, kTokens * kLine, a.slices);
    StoreProduct<Bf16>(a, rows.out, m, n, sum);
  }
}

// `tiles`: how many of 8 * kTokenTiles rows there can be.
template <int kOutTiles, int kTokenTiles, typename Groups>
void Launch(const ProductArguments& a, WeightForm form, const Groups& groups, int64_t tiles,
            bool aligned, cudaStream_t stream) {
  constexpr int kOutputs = 16 * kOutTiles;
  constexpr int kTokens = 8 * kTokenTiles;
  const dim3 grid(static_cast<unsigned>((a.outputs + kOutputs - 1) / kOutputs),
                  static_cast<unsigned>(tiles), static_cast<unsigned>(a.heads));
  const dim3 block(32, a.slices);
  const size_t shared = sizeof(float) * a.slices * kTokens * (kOutputs + 4);
  const auto launch = [&](auto w) {
    using W = decltype(w);
    if (aligned) {
      SkinnyKernel<W, kOutTiles, kTokenTiles, true><<<grid, block, shared, stream>>>(a, groups);
    } else {
      SkinnyKernel<W, kOutTiles, kTokenTiles, false><<<grid, block, shared, stream>>>(a, groups);
    }
  };
  if (form == WeightForm::kFloat8) return launch(Float8());
  launch(Bf16());
}

template <int kOutTiles, int kTokenTiles>
void Launch(const ProductArguments& a, WeightForm form, bool aligned, cudaStream_t stream) {
  constexpr int kTokens = 8 * kTokenTiles;
  Launch<kOutTiles, kTokenTiles>(a, form, NoGroups(), (a.tokens + kTokens - 1) / kTokens, aligned,
                                 stream);
}

bool IsAligned(const ProductArguments& a) {
  bool aligned = reinterpret_cast<uintptr_t>(a.x) % 16 == 0 && a.x_stride % 8 == 0;
  aligned = aligned && (a.heads == 1 || a.x_head % 8 == 0);
  for (int s = 0; s < a.slices; ++s) {
    aligned = aligned && a.slice[s].x_begin % 8 == 0 && a.slice[s].count % 8 == 0;
  }
  return aligned;
}

}  // namespace

void LaunchSkinnyGemm(const ProductArguments& a, WeightForm form, int multiprocessors,
                      cudaStream_t stream) {
  const bool aligned = IsAligned(a);
  // Wider tiles read x less often, narrower ones fill more multiprocessors. Rows of weights come in
  // sixteens, so a tile of two must divide them.
  const int64_t tiles = (a.outputs + 15) / 16;
  const bool wide = tiles % 2 == 0 && tiles / 2 * a.heads >= 2 * int64_t{multiprocessors};
  if (a.tokens <= 8) {
    if (wide && a.tokens > 2) return Launch<2, 1>(a, form, aligned, stream);
    return Launch<1, 1>(a, form, aligned, stream);
  }
  if (wide) return Launch<2, 2>(a, form, aligned, stream);
  Launch<1, 2>(a, form, aligned, stream);
}

void LaunchSkinnyGroups(const ProductArguments& a, WeightForm form, const ProductGroups& groups,
                        cudaStream_t stream) {
  if (groups.tiles_max == 0) return;
  // There are many tiles, and most have few rows.
  if ((a.outputs + 15) / 16 % 2 == 0) {
    return Launch<2, 2>(a, form, groups, groups.tiles_max, IsAligned(a), stream);
  }
  Launch<1, 2>(a, form, groups, groups.tiles_max, IsAligned(a), stream);
}

}  // namespace tessera::cuda
