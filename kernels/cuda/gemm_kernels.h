// What the product kernels are told. out [T, N] = x [T, K] . w [N, K]^T + bias, w in the layout of
// CudaWeight: rows of `w_stride` elements in which every slice of K begins at a multiple of
// kProductStep and is filled up with zeros. See gemm.cc for which kernel takes what.
//
// The bits of an element: per slice one float32 accumulator in a tensor core, sixteen k at a time
// in one order (ProductOrder below); the slices summed pairwise in a fixed tree. SkinnyGemm and
// TileGemm give the same bits.

#ifndef TESSERA_KERNELS_CUDA_GEMM_KERNELS_H_
#define TESSERA_KERNELS_CUDA_GEMM_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace tessera::cuda {

// k that a warp takes at once. Lane t of a quad reads k 8 t .. 8 t + 7 and 32 + 8 t .. 32 + 8 t + 7
// with one load each, so the four tensor core steps take k in another order than they lie: always
// this one.
inline constexpr int kProductStep = 64;
inline constexpr int kSlicesMax = 8;

// A run of k that one accumulator takes.
struct ProductSlice {
  int64_t packed_begin = 0;  // first element of a weight row, multiple of kProductStep
  int64_t x_begin = 0;       // first element of a row of x
  int64_t count = 0;         // elements that exist
};

struct ProductArguments {
  int64_t tokens = 0;   // T
  int64_t outputs = 0;  // N
  void* out = nullptr;
  int64_t out_stride = 0;
  bool out_bfloat16 = true;  // else float32
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* w = nullptr;
  int64_t w_stride = 0;
  const void* bias = nullptr;  // of x's type
  int slices = 1;              // 1, 2, 4 or 8
  ProductSlice slice[kSlicesMax];
};

// bfloat16 x and w, any shape: a warp per slice streams sixteen weight rows past up to sixteen
// tokens (more tokens: more blocks). Weights are padded to a multiple of sixteen rows.
void LaunchSkinnyGemm(const ProductArguments& arguments, int multiprocessors, cudaStream_t stream);

// The same bits for many tokens: tiles of 128 outputs by 64 tokens in shared memory. Slices must
// lie in w and x as they follow each other, without padding; x aligned to 16 bytes.
bool TileGemmTakes(const ProductArguments& arguments);
void LaunchTileGemm(const ProductArguments& arguments, cudaStream_t stream);

// Float32 or mixed operands: one thread per output element, fma in order of k. For tests and small
// models; a float32 model is not worth a GPU.
struct PlainTypes {
  bool x_bfloat16 = false;
  bool w_bfloat16 = false;
};
void LaunchPlainGemm(const ProductArguments& arguments, const PlainTypes& types,
                     cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_GEMM_KERNELS_H_
