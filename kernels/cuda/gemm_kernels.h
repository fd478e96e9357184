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
  // Of a float8 weight: bytes from its first element to its scales, one for every row, and where
  // `slice_scales` as many again for every further slice. Rows of scales are `scale_stride` apart.
  int64_t scale_offset = 0;
  int64_t scale_stride = 0;
  bool slice_scales = false;
  int slices = 1;  // 1, 2, 4 or 8
  ProductSlice slice[kSlicesMax];
  // Products of the same shape side by side, head h of them with everything h times so many
  // elements further on.
  int heads = 1;
  int64_t x_head = 0;
  int64_t out_head = 0;
  int64_t w_head = 0;
};

// Rows of one product that meet the same weight: those of out from `begin` up to `end`.
struct ProductTile {
  int32_t group = 0;
  int32_t begin = 0;
  int32_t end = 0;
};

// Products whose rows belong to different weights of one shape. Which rows belong where is known on
// the device only, so there are as many blocks as there could be tiles.
inline constexpr int kProductGroupsMax = 1024;
struct ProductGroups {
  const ProductTile* tiles = nullptr;   // [tile_count]
  const int32_t* tile_count = nullptr;  // one number, at most tiles_max
  int64_t tiles_max = 0;
  const int32_t* x_row = nullptr;  // row r of out comes of row x_row[r] of x; null: of row r
  const void* w[kProductGroupsMax] = {};
};
// Rows of a tile that the kernels can be told to take.
inline constexpr int kSkinnyTileRows = 16;
inline constexpr int kWideTileRows = 64;

enum class WeightForm { kFloat32, kBFloat16, kFloat8 };

// bfloat16 x, bfloat16 or float8 w, any shape: a warp per slice streams sixteen weight rows past up
// to sixteen tokens (more tokens: more blocks). Weights are padded to a multiple of sixteen rows.
void LaunchSkinnyGemm(const ProductArguments& arguments, WeightForm form, int multiprocessors,
                      cudaStream_t stream);

// The same bits for many tokens: tiles of 128 outputs by 64 tokens in shared memory. Slices must
// lie in w and x as they follow each other, without padding; x aligned to 16 bytes.
bool TileGemmTakes(const ProductArguments& arguments);
void LaunchTileGemm(const ProductArguments& arguments, cudaStream_t stream);

// Float32 or mixed operands: one thread per output element, fma in order of k. For tests and small
// models; a float32 model is not worth a GPU.
struct PlainTypes {
  bool x_bfloat16 = false;
  WeightForm w = WeightForm::kFloat32;
};
void LaunchPlainGemm(const ProductArguments& arguments, const PlainTypes& types,
                     cudaStream_t stream);

// The same three for groups: `tokens` and `w` of the arguments are not read, tiles have at most
// kSkinnyTileRows (the wide one: kWideTileRows) rows.
void LaunchSkinnyGroups(const ProductArguments& arguments, WeightForm form,
                        const ProductGroups& groups, cudaStream_t stream);
void LaunchTileGroups(const ProductArguments& arguments, const ProductGroups& groups,
                      cudaStream_t stream);
// x8 [tokens, inputs] and scales [tokens]: rows of bfloat16 x as float8, each with its own scale.
struct QuantizeArguments {
  int64_t rows = 0;
  int64_t columns = 0;
  const void* x = nullptr;
  int64_t x_stride = 0;
  uint8_t* x8 = nullptr;  // rows of `columns`
  float* scales = nullptr;
};
void LaunchQuantize(const QuantizeArguments& arguments, cudaStream_t stream);
void LaunchPlainGroups(const ProductArguments& arguments, const ProductGroups& groups,
                       const PlainTypes& types, cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_GEMM_KERNELS_H_
