// Activations as float8, a scale for every token. A block has one row.

#include "base/float8.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gemm_kernels.h"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void QuantizeKernel(const __grid_constant__ QuantizeArguments a) {
  __shared__ float shared[32];
  const int64_t row = blockIdx.x;
  const Bf16* x = static_cast<const Bf16*>(a.x) + row * a.x_stride;
  uint8_t* to = a.x8 + row * a.columns;
  float largest = 0.0f;
  for (int64_t k = threadIdx.x; k < a.columns; k += kThreads) {
    largest = fmaxf(largest, fabsf(Wide(x[k])));
  }
  const Float8Scale scale = Float8ScaleOf(BlockMax(largest, shared));
  if (threadIdx.x == 0) a.scales[row] = scale.scale;
  for (int64_t k = threadIdx.x; k < a.columns; k += kThreads) {
    to[k] = ToFloat8E4M3(Wide(x[k]) * scale.inverse);
  }
}

}  // namespace

void LaunchQuantize(const QuantizeArguments& a, cudaStream_t stream) {
  if (a.rows == 0 || a.columns == 0) return;
  QuantizeKernel<<<static_cast<unsigned>(a.rows), kThreads, 0, stream>>>(a);
}

}  // namespace tessera::cuda
