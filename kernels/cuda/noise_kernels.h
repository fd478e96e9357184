// What the kernel that makes up weights is told. Rows of `out` are `stride` elements apart; with
// slices, column c lies where its slice of a packed weight is.

#ifndef TESSERA_KERNELS_CUDA_NOISE_KERNELS_H_
#define TESSERA_KERNELS_CUDA_NOISE_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/gemm_kernels.h"
#include "kernels/noise.h"

namespace tessera::cuda {

struct NoiseArguments {
  void* out = nullptr;
  bool bfloat16 = true;  // else float32
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
  int slices = 0;
  ProductSlice slice[kSlicesMax];
  NoiseSpec noise;
  // Of float8: [segments][rows], see ProductArguments.
  float* scales = nullptr;
  int64_t scale_stride = 0;
  bool slice_scales = false;
};
void LaunchNoise(const NoiseArguments& arguments, cudaStream_t stream);
// The same into a float8 weight, as if it had been quantized while loading.
void LaunchFloat8Noise(const NoiseArguments& arguments, cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_NOISE_KERNELS_H_
