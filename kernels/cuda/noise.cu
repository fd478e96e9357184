// Weights that are made up on the device, at the speed of its memory.

#include "base/float8.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/noise_kernels.h"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kGridRowsMax = 65535;

template <typename T>
__global__ void NoiseKernel(const __grid_constant__ NoiseArguments a) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= a.columns) return;
  int64_t at = column;
  for (int s = 0; s < a.slices; ++s) {
    const int64_t inside = column - a.slice[s].x_begin;
    if (inside >= 0 && inside < a.slice[s].count) at = a.slice[s].packed_begin + inside;
  }
  for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
    static_cast<T*>(a.out)[row * a.stride + at] = Narrow<T>(NoiseAt(a.noise, row, column));
  }
}

// A block has one row: its largest number first, then what is kept of each.
__global__ void Float8NoiseKernel(const __grid_constant__ NoiseArguments a) {
  __shared__ float shared[32];
  const int64_t row = blockIdx.x;
  uint8_t* out = static_cast<uint8_t*>(a.out) + row * a.stride;
  Float8Scale scale;
  for (int s = 0; s < a.slices; ++s) {
    const ProductSlice& slice = a.slice[s];
    if (a.slice_scales || s == 0) {
      const int64_t count = a.slice_scales ? slice.count : a.columns;
      float largest = 0.0f;
      for (int64_t k = threadIdx.x; k < count; k += kThreads) {
        largest = fmaxf(largest, fabsf(NoiseAt(a.noise, row, slice.x_begin + k)));
      }
      scale = Float8ScaleOf(BlockMax(largest, shared));
      __syncthreads();
      if (threadIdx.x == 0) a.scales[s * a.scale_stride + row] = scale.scale;
    }
    for (int64_t k = threadIdx.x; k < slice.count; k += kThreads) {
      out[slice.packed_begin + k] =
          ToFloat8E4M3(NoiseAt(a.noise, row, slice.x_begin + k) * scale.inverse);
    }
  }
}

}  // namespace

void LaunchFloat8Noise(const NoiseArguments& a, cudaStream_t stream) {
  if (a.rows == 0) return;
  Float8NoiseKernel<<<static_cast<unsigned>(a.rows), kThreads, 0, stream>>>(a);
}

void LaunchNoise(const NoiseArguments& a, cudaStream_t stream) {
  if (a.rows == 0 || a.columns == 0) return;
  const dim3 grid(static_cast<unsigned>((a.columns + kThreads - 1) / kThreads),
                  static_cast<unsigned>(a.rows < kGridRowsMax ? a.rows : kGridRowsMax));
  if (a.bfloat16) {
    NoiseKernel<Bf16><<<grid, kThreads, 0, stream>>>(a);
  } else {
    NoiseKernel<float><<<grid, kThreads, 0, stream>>>(a);
  }
}

}  // namespace tessera::cuda
