// RMS and layer norms with the residual stream. One block per row; the row stays in registers
// between the sum of squares and the scaling, so that each byte moves once. The order of the sum
// depends on the number of columns alone.

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/row_kernels.h"

namespace tessera::cuda {
namespace {

constexpr int kVector = 8;

// Eight elements of the sum over the parts, ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), from element
// `at` of each on.
__device__ void LoadSum8(float (&x)[kVector], const NormArguments& a, int64_t at, int count,
                         bool whole) {
  float part[kVector];
  float pair[2][kVector];  // of parts 2 p, 2 p + 1; of four parts
  Load8(x, a.parts[0] + at, count, whole);
  for (int p = 1; p < a.num_parts; ++p) {
    Load8(part, a.parts[p] + at, count, whole);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      // A binary counter: p's trailing ones say how far the sum carries.
      if (p % 2 == 1) part[i] = (p == 1 ? x[i] : pair[0][i]) + part[i];
      if (p % 2 == 0) {
        pair[0][i] = part[i];
      } else if (p == 1) {
        x[i] = part[i];
      } else if (p == 3) {
        x[i] = x[i] + part[i];
      } else if (p == 5) {
        pair[1][i] = part[i];
      } else {
        x[i] = x[i] + (pair[1][i] + part[i]);
      }
    }
  }
}

__global__ void TreeSumKernel(float* out, NormArguments a, int64_t n, bool aligned) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x * kVector;
  for (int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kVector; at < n;
       at += step) {
    const int count = n - at < kVector ? static_cast<int>(n - at) : kVector;
    const bool whole = aligned && count == kVector;
    float x[kVector];
    LoadSum8(x, a, at, count, whole);
    Store8(out + at, x, count, whole);
  }
}

// 1 / rms of the block's row, whose elements lie in x[kChunks][8] of every thread.
template <int kChunks>
__device__ float InverseRms(const float (&x)[kChunks][kVector], int64_t columns, float eps,
                            float* shared) {
  float squares = 0.0f;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares = fmaf(x[c][i], x[c][i], squares);
  }
  const float mean = __fdiv_rn(BlockSum(squares, shared), static_cast<float>(columns));
  return __fdiv_rn(1.0f, __fsqrt_rn(mean + eps));
}

// Subtracts the row's mean; elements that do not exist stay zero.
template <int kChunks>
__device__ void TakeMean(float (&x)[kChunks][kVector], int columns, float* shared) {
  float sum = 0.0f;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum += x[c][i];
  }
  const float mean = __fdiv_rn(BlockSum(sum, shared), static_cast<float>(columns));
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int begin = (c * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kVector;
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[c][i] = begin + i < columns ? x[c][i] - mean : 0.0f;
  }
}

template <typename T, int kChunks>
__global__ void NormKernel(NormArguments a, bool aligned) {
  __shared__ float shared[3][32];
  const int64_t row = blockIdx.x;
  const int columns = static_cast<int>(a.columns);
  float x[kChunks][kVector];
  float w[kVector];
  const auto begin = [&](int c) {
    return (c * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kVector;
  };
  const auto whole = [&](int c) { return aligned && begin(c) + kVector <= columns; };
  T* stream = static_cast<T*>(a.residual.data) + row * a.residual.stride;
  if (a.residual.data == nullptr) {
    const T* from = static_cast<const T*>(a.x.data) + row * a.x.stride;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) Load8(x[c], from + begin(c), columns - begin(c), whole(c));
  } else {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      LoadSum8(x[c], a, row * a.part_stride + begin(c), columns - begin(c), whole(c));
      if (a.bias == nullptr) continue;
      Load8(w, static_cast<const T*>(a.bias) + begin(c), columns - begin(c), whole(c));
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[c][i] += w[i];
    }
    float inverse = 1.0f;
    if (a.sum_weight != nullptr) inverse = InverseRms(x, columns, a.eps, shared[1]);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (a.sum_weight != nullptr) {
        Load8(w, static_cast<const T*>(a.sum_weight) + begin(c), columns - begin(c), whole(c));
#pragma unroll
        for (int i = 0; i < kVector; ++i) x[c][i] = x[c][i] * inverse * (w[i] + a.offset);
      }
      float before[kVector];
      Load8(before, stream + begin(c), columns - begin(c), whole(c));
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[c][i] = Wide(Narrow<T>(before[i] + x[c][i]));
      Store8(stream + begin(c), x[c], columns - begin(c), whole(c));
    }
  }
  if (a.norm_bias != nullptr) TakeMean(x, columns, shared[2]);
  const float inverse = InverseRms(x, columns, a.eps, shared[0]);
  T* out = static_cast<T*>(a.out.data) + row * a.out.stride;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    Load8(w, static_cast<const T*>(a.weight) + begin(c), columns - begin(c), whole(c));
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[c][i] = x[c][i] * inverse * (w[i] + a.offset);
    if (a.norm_bias != nullptr) {
      Load8(w, static_cast<const T*>(a.norm_bias) + begin(c), columns - begin(c), whole(c));
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[c][i] += w[i];
    }
    Store8(out + begin(c), x[c], columns - begin(c), whole(c));
  }
}

template <typename T, int kChunks>
void Launch(const NormArguments& a, bool aligned, cudaStream_t stream) {
  const int64_t vectors = (a.columns + kVector * kChunks - 1) / (kVector * kChunks);
  const int threads = static_cast<int>((vectors + 31) / 32 * 32);
  NormKernel<T, kChunks><<<static_cast<unsigned>(a.rows), threads, 0, stream>>>(a, aligned);
}

template <typename T>
void LaunchOf(const NormArguments& a, bool aligned, cudaStream_t stream) {
  if (a.columns <= 512 * kVector) return Launch<T, 1>(a, aligned, stream);
  if (a.columns <= 1024 * kVector) return Launch<T, 2>(a, aligned, stream);
  Launch<T, 4>(a, aligned, stream);
}

bool Aligned(const Rows& rows, int64_t element) {
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.stride * element % 16 == 0;
}

bool PartsAligned(const NormArguments& a) {
  for (int p = 0; p < a.num_parts; ++p) {
    if (reinterpret_cast<uintptr_t>(a.parts[p]) % 16 != 0) return false;
  }
  return a.part_stride % 4 == 0;
}

}  // namespace

void LaunchTreeSum(float* out, const float* const* parts, int num_parts, int64_t n,
                   cudaStream_t stream) {
  if (n == 0) return;
  constexpr int kThreads = 256;
  constexpr int64_t kBlocksMax = 1024;
  NormArguments a;
  for (int p = 0; p < num_parts; ++p) a.parts[p] = parts[p];
  a.num_parts = num_parts;
  const bool aligned = PartsAligned(a) && reinterpret_cast<uintptr_t>(out) % 16 == 0;
  const int64_t blocks = (n + kThreads * kVector - 1) / (kThreads * kVector);
  TreeSumKernel<<<static_cast<unsigned>(blocks < kBlocksMax ? blocks : kBlocksMax), kThreads, 0,
                  stream>>>(out, a, n, aligned);
}

void LaunchNorm(const NormArguments& a, cudaStream_t stream) {
  if (a.rows == 0) return;
  const int64_t element = a.bfloat16 ? 2 : 4;
  const auto pointer = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const bool aligned = Aligned(a.out, element) && Aligned(a.x, element) &&
                       Aligned(a.residual, element) && PartsAligned(a) && pointer(a.bias) &&
                       pointer(a.weight) && pointer(a.sum_weight) && pointer(a.norm_bias);
  if (a.bfloat16) return LaunchOf<Bf16>(a, aligned, stream);
  LaunchOf<float>(a, aligned, stream);
}

}  // namespace tessera::cuda
