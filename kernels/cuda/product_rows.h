// Which rows of x and out, and which weight, a block of a product kernel has: those of a plain
// product, of one head of several, or of one tile of a grouped product. Included by the product
// kernels; the grouped ones are the same code with another of these.

#ifndef TESSERA_KERNELS_CUDA_PRODUCT_ROWS_H_
#define TESSERA_KERNELS_CUDA_PRODUCT_ROWS_H_

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gemm_kernels.h"

namespace tessera::cuda {

// Instead of ProductGroups where there are none.
struct NoGroups {};

// X and W: elements of x and of the weight.
template <typename X, typename W>
struct ProductRows {
  const X* x = nullptr;
  const W* w = nullptr;
  char* out = nullptr;
  int64_t begin = 0;  // first row of out
  int64_t end = 0;    // rows from here on are not the block's
  const int32_t* x_row = nullptr;
  const float* scale = nullptr;  // of a float8 weight's rows

  __device__ const X* XRow(int64_t row, int64_t stride) const {
    return x + (x_row == nullptr ? row : x_row[row]) * stride;
  }
};

__device__ inline const float* ScalesOf(const ProductArguments& a, const void* w) {
  return reinterpret_cast<const float*>(static_cast<const char*>(w) + a.scale_offset);
}

// `rows_per_tile` tokens a block in y, heads in z.
template <typename X, typename W>
__device__ ProductRows<X, W> RowsOfBlock(const ProductArguments& a, const NoGroups&,
                                         int rows_per_tile) {
  ProductRows<X, W> rows;
  const int64_t head = blockIdx.z;
  rows.x = static_cast<const X*>(a.x) + head * a.x_head;
  rows.w = static_cast<const W*>(a.w) + head * a.w_head;
  rows.out = static_cast<char*>(a.out) + head * a.out_head * (a.out_bfloat16 ? 2 : 4);
  rows.scale = ScalesOf(a, rows.w);
  rows.begin = static_cast<int64_t>(blockIdx.y) * rows_per_tile;
  rows.end = a.tokens;
  return rows;
}

// One tile a block in y; begin equals end where there is no such tile.
template <typename X, typename W>
__device__ ProductRows<X, W> RowsOfBlock(const ProductArguments& a, const ProductGroups& groups,
                                         int /*rows_per_tile*/) {
  ProductRows<X, W> rows;
  if (static_cast<int64_t>(blockIdx.y) >= *groups.tile_count) return rows;
  const ProductTile tile = groups.tiles[blockIdx.y];
  rows.x = static_cast<const X*>(a.x);
  rows.w = static_cast<const W*>(groups.w[tile.group]);
  rows.scale = ScalesOf(a, rows.w);
  rows.out = static_cast<char*>(a.out);
  rows.begin = tile.begin;
  rows.end = tile.end;
  rows.x_row = groups.x_row;
  return rows;
}

// Writes one element, bias of type X added.
template <typename X>
__device__ void StoreProduct(const ProductArguments& a, char* out, int64_t row, int64_t output,
                             float sum) {
  if (a.bias != nullptr) sum += Wide(static_cast<const X*>(a.bias)[output]);
  const int64_t at = row * a.out_stride + output;
  if (a.out_bfloat16) {
    reinterpret_cast<Bf16*>(out)[at] = Narrow<Bf16>(sum);
  } else {
    reinterpret_cast<float*>(out)[at] = sum;
  }
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_PRODUCT_ROWS_H_
