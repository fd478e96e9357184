// Products with float32 on either side: a thread per output element, one fma chain over k per
// slice, the slices in the fixed tree. The order is that of the CPU backend, so float32 results
// have its bits. Never in a bfloat16 model.

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gemm_kernels.h"
#include "kernels/cuda/product_rows.h"

namespace tessera::cuda {
namespace {

constexpr int kTile = 16;  // outputs and tokens of a block, and k at a time

template <typename X, typename W, typename Groups>
__global__ void PlainKernel(const __grid_constant__ ProductArguments a,
                            const __grid_constant__ Groups groups) {
  __shared__ float x_tile[kTile][kTile + 1];  // [token][k]
  __shared__ float w_tile[kTile][kTile + 1];  // [output][k]
  const int64_t output = static_cast<int64_t>(blockIdx.x) * kTile;
  const ProductRows<X, W> rows = RowsOfBlock<X, W>(a, groups, kTile);
  if (rows.begin >= rows.end) return;
  const int64_t token = rows.begin;
  const int column = static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(threadIdx.y);
  float levels[4] = {};
  float sum = 0.0f;
  for (int s = 0; s < a.slices; ++s) {
    const ProductSlice& slice = a.slice[s];
    sum = 0.0f;
    for (int64_t k = 0; k < slice.count; k += kTile) {
      const bool k_exists = k + column < slice.count;
      x_tile[row][column] =
          k_exists && token + row < rows.end
              ? Wide(rows.XRow(token + row, a.x_stride)[slice.x_begin + k + column])
              : 0.0f;
      w_tile[row][column] =
          k_exists && output + row < a.outputs
              ? Wide(rows.w[(output + row) * a.w_stride + slice.packed_begin + k + column])
              : 0.0f;
      __syncthreads();
      for (int i = 0; i < kTile && k + i < slice.count; ++i) {
        sum = fmaf(x_tile[row][i], w_tile[column][i], sum);
      }
      __syncthreads();
    }
    if (a.scale_offset != 0 && output + column < a.outputs) {
      sum *= rows.scale[(a.slice_scales ? s * a.scale_stride : 0) + output + column];
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
  if (output + column >= a.outputs || token + row >= rows.end) return;
  StoreProduct<X>(a, rows.out, token + row, output + column, sum);
}

template <typename Groups>
void LaunchPlain(const ProductArguments& a, const Groups& groups, int64_t tiles,
                 const PlainTypes& types, cudaStream_t stream) {
  const dim3 block(kTile, kTile);
  const dim3 grid(static_cast<unsigned>((a.outputs + kTile - 1) / kTile),
                  static_cast<unsigned>(tiles), static_cast<unsigned>(a.heads));
  const auto launch = [&](auto x) {
    using X = decltype(x);
    switch (types.w) {
      case WeightForm::kFloat32:
        return PlainKernel<X, float, Groups><<<grid, block, 0, stream>>>(a, groups);
      case WeightForm::kBFloat16:
        return PlainKernel<X, Bf16, Groups><<<grid, block, 0, stream>>>(a, groups);
      case WeightForm::kFloat8:
        return PlainKernel<X, Float8, Groups><<<grid, block, 0, stream>>>(a, groups);
    }
  };
  if (types.x_bfloat16) return launch(Bf16());
  launch(float());
}

}  // namespace

void LaunchPlainGemm(const ProductArguments& a, const PlainTypes& types, cudaStream_t stream) {
  if (a.tokens == 0) return;
  LaunchPlain(a, NoGroups(), (a.tokens + kTile - 1) / kTile, types, stream);
}

void LaunchPlainGroups(const ProductArguments& a, const ProductGroups& groups,
                       const PlainTypes& types, cudaStream_t stream) {
  static_assert(kTile == kSkinnyTileRows);
  if (groups.tiles_max > 0) LaunchPlain(a, groups, groups.tiles_max, types, stream);
}

}  // namespace tessera::cuda
