// Products of few tokens, limited by reading the weights once. A block has one warp per slice of K;
// a warp streams 16 * kOutTiles weight rows past 8 * kTokenTiles tokens through the tensor cores,
// the weights as the 16-row operand, straight from memory into fragments (see kProductStep). The
// slices meet in shared memory.

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gemm_kernels.h"
#include "kernels/cuda/mma.h"

namespace tessera::cuda {
namespace {

// The eight x elements from k on of one token, zeros where there are none.
template <bool kAligned>
__device__ uint4 LoadX(const Bf16* x, int64_t k, int64_t count, bool token_exists) {
  if (!token_exists || k >= count) return make_uint4(0, 0, 0, 0);
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

// One slice of the warp's tile.
template <int kOutTiles, int kTokenTiles, bool kAligned>
__device__ void RunSlice(const ProductArguments& a, const ProductSlice& slice, int64_t output,
                         int64_t token, Accumulators<kOutTiles, kTokenTiles>& acc) {
  const int lane = static_cast<int>(threadIdx.x);
  const int g = lane / 4;
  const int t = lane % 4;
  const Bf16* w =
      static_cast<const Bf16*>(a.w) + (output + g) * a.w_stride + slice.packed_begin + 8 * t;
  const Bf16* x = static_cast<const Bf16*>(a.x) + (token + g) * a.x_stride + slice.x_begin;
#pragma unroll(kOutTiles == 1 ? 4 : kOutTiles == 2 ? 2 : 1)
  for (int64_t k = 0; k < slice.count; k += kProductStep) {
    uint4 wide[kOutTiles][2][2];
#pragma unroll
    for (int o = 0; o < kOutTiles; ++o) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        wide[o][0][half] = LoadStreaming(w + 16 * o * a.w_stride + k + 32 * half);
        wide[o][1][half] = LoadStreaming(w + (16 * o + 8) * a.w_stride + k + 32 * half);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        const uint4 b = LoadX<kAligned>(x + 8 * n * a.x_stride, k + 32 * half + 8 * t, slice.count,
                                        token + 8 * n + g < a.tokens);
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

template <int kOutTiles, int kTokenTiles, bool kAligned>
__global__ void SkinnyKernel(ProductArguments a) {
  constexpr int kOutputs = 16 * kOutTiles;
  constexpr int kTokens = 8 * kTokenTiles;
  constexpr int kLine = kOutputs + 4;  // of shared memory: a token's outputs, and a bank apart
  extern __shared__ float parts[];     // [slices][kTokens][kLine]
  const int64_t output = static_cast<int64_t>(blockIdx.x) * kOutputs;
  const int64_t token = static_cast<int64_t>(blockIdx.y) * kTokens;
  const int warp = static_cast<int>(threadIdx.y);
  Accumulators<kOutTiles, kTokenTiles> acc;
  RunSlice<kOutTiles, kTokenTiles, kAligned>(a, a.slice[warp], output, token, acc);
  const int g = static_cast<int>(threadIdx.x) / 4;
  const int t = static_cast<int>(threadIdx.x) % 4;
  float* mine = parts + warp * kTokens * kLine;
#pragma unroll
  for (int o = 0; o < kOutTiles; ++o) {
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 16 * o + g + (i >= 2 ? 8 : 0);
        const int column = 8 * n + 2 * t + i % 2;
        mine[column * kLine + row] = acc.c[o][n][i];
      }
    }
  }
  __syncthreads();
  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  for (int i = warp * 32 + static_cast<int>(threadIdx.x); i < kOutputs * kTokens; i += threads) {
    const int64_t n = output + i % kOutputs;
    const int64_t m = token + i / kOutputs;
    if (n >= a.outputs || m >= a.tokens) continue;
    float sum = TreeSum(parts + i / kOutputs * kLine + i % kOutputs, kTokens * kLine, a.slices);
    if (a.bias != nullptr) sum += Wide(static_cast<const Bf16*>(a.bias)[n]);
    const int64_t at = m * a.out_stride + n;
    if (a.out_bfloat16) {
      static_cast<Bf16*>(a.out)[at] = Narrow<Bf16>(sum);
    } else {
      static_cast<float*>(a.out)[at] = sum;
    }
  }
}

template <int kOutTiles, int kTokenTiles>
void Launch(const ProductArguments& a, bool aligned, cudaStream_t stream) {
  constexpr int kOutputs = 16 * kOutTiles;
  constexpr int kTokens = 8 * kTokenTiles;
  const dim3 grid(static_cast<unsigned>((a.outputs + kOutputs - 1) / kOutputs),
                  static_cast<unsigned>((a.tokens + kTokens - 1) / kTokens));
  const dim3 block(32, a.slices);
  const size_t shared = sizeof(float) * a.slices * kTokens * (kOutputs + 4);
  if (aligned) {
    SkinnyKernel<kOutTiles, kTokenTiles, true><<<grid, block, shared, stream>>>(a);
  } else {
    SkinnyKernel<kOutTiles, kTokenTiles, false><<<grid, block, shared, stream>>>(a);
  }
}

}  // namespace

void LaunchSkinnyGemm(const ProductArguments& a, int multiprocessors, cudaStream_t stream) {
  bool aligned = reinterpret_cast<uintptr_t>(a.x) % 16 == 0 && a.x_stride % 8 == 0;
  for (int s = 0; s < a.slices; ++s) {
    aligned = aligned && a.slice[s].x_begin % 8 == 0 && a.slice[s].count % 8 == 0;
  }
  // Wider tiles read x less often, narrower ones fill more multiprocessors. Rows of weights come in
  // sixteens, so a tile of two must divide them.
  const int64_t tiles = (a.outputs + 15) / 16;
  const bool wide = tiles % 2 == 0 && tiles / 2 >= 2 * int64_t{multiprocessors};
  if (a.tokens <= 8) {
    if (wide && a.tokens > 2) return Launch<2, 1>(a, aligned, stream);
    return Launch<1, 1>(a, aligned, stream);
  }
  if (wide) return Launch<2, 2>(a, aligned, stream);
  Launch<1, 2>(a, aligned, stream);
}

}  // namespace tessera::cuda
