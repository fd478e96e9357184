// Products with float32 on either side: a thread per output element, one fma chain over k per
// slice, the slices in the fixed tree. The order is that of the CPU backend, so float32 results
// have its bits. Never in a bfloat16 model.

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gemm_kernels.h"

namespace tessera::cuda {
namespace {

constexpr int kTile = 16;  // outputs and tokens of a block, and k at a time

template <typename X, typename W>
__global__ void PlainKernel(ProductArguments a) {
  __shared__ float x_tile[kTile][kTile + 1];  // [token][k]
  __shared__ float w_tile[kTile][kTile + 1];  // [output][k]
  const int64_t output = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t token = static_cast<int64_t>(blockIdx.y) * kTile;
  const int column = static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(threadIdx.y);
  float levels[4] = {};
  float sum = 0.0f;
  for (int s = 0; s < a.slices; ++s) {
    const ProductSlice& slice = a.slice[s];
    sum = 0.0f;
    for (int64_t k = 0; k < slice.count; k += kTile) {
      const bool k_exists = k + column < slice.count;
      x_tile[row][column] = k_exists && token + row < a.tokens
                                ? Wide(static_cast<const X*>(
                                      a.x)[(token + row) * a.x_stride + slice.x_begin + k + column])
                                : 0.0f;
      w_tile[row][column] =
          k_exists && output + row < a.outputs
              ? Wide(static_cast<const W*>(
                    a.w)[(output + row) * a.w_stride + slice.packed_begin + k + column])
              : 0.0f;
      __syncthreads();
      for (int i = 0; i < kTile && k + i < slice.count; ++i) {
        sum = fmaf(x_tile[row][i], w_tile[column][i], sum);
      }
      __syncthreads();
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
  if (output + column >= a.outputs || token + row >= a.tokens) return;
  if (a.bias != nullptr) sum += Wide(static_cast<const X*>(a.bias)[output + column]);
  const int64_t at = (token + row) * a.out_stride + output + column;
  if (a.out_bfloat16) {
    static_cast<Bf16*>(a.out)[at] = Narrow<Bf16>(sum);
  } else {
    static_cast<float*>(a.out)[at] = sum;
  }
}

}  // namespace

void LaunchPlainGemm(const ProductArguments& a, const PlainTypes& types, cudaStream_t stream) {
  if (a.tokens == 0) return;
  const dim3 block(kTile, kTile);
  const dim3 grid(static_cast<unsigned>((a.outputs + kTile - 1) / kTile),
                  static_cast<unsigned>((a.tokens + kTile - 1) / kTile));
  if (types.x_bfloat16 && types.w_bfloat16) {
    PlainKernel<Bf16, Bf16><<<grid, block, 0, stream>>>(a);
  } else if (types.x_bfloat16) {
    PlainKernel<Bf16, float><<<grid, block, 0, stream>>>(a);
  } else if (types.w_bfloat16) {
    PlainKernel<float, Bf16><<<grid, block, 0, stream>>>(a);
  } else {
    PlainKernel<float, float><<<grid, block, 0, stream>>>(a);
  }
}

}  // namespace tessera::cuda
