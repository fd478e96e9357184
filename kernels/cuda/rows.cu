// Element-wise kernels over rows: gated activation, soft cap, embedding gather, row gather. Each
// thread has eight neighbouring elements; grid x runs over the columns, y over the rows.

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/row_kernels.h"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kVector = 8;
// Grid y; longer tensors are walked in strides of it.
constexpr int64_t kGridRowsMax = 65535;

dim3 GridOf(int64_t rows, int64_t columns) {
  const int64_t per_block = kThreads * kVector;
  return dim3(static_cast<unsigned>((columns + per_block - 1) / per_block),
              static_cast<unsigned>(rows < kGridRowsMax ? rows : kGridRowsMax));
}

bool Aligned(const Rows& rows, int64_t element) {
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.stride * element % 16 == 0;
}

__device__ float Activate(float x, ActivationForm form) {
  switch (form) {
    case ActivationForm::kSilu:
      return __fdiv_rn(x, 1.0f + ExactExp(0.0f - x));
    case ActivationForm::kGeluTanh: {
      const float cube = x * x * x;
      return 0.5f * x * (1.0f + ExactTanh(0.797884561f * fmaf(0.044715f, cube, x)));
    }
    case ActivationForm::kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.707106781f));
  }
  return x;
}

template <typename T>
__global__ void GatedKernel(GatedArguments a, bool aligned) {
  const int column =
      (static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x)) * kVector;
  const int count = static_cast<int>(a.columns) - column;
  if (count <= 0) return;
  const bool whole = aligned && count >= kVector;
  const int64_t rows = a.row_count == nullptr ? a.rows : *a.row_count;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const T* gate = static_cast<const T*>(a.gate_up.data) + row * a.gate_up.stride + column;
    float x[kVector];
    float up[kVector];
    Load8(x, gate, count, whole);
    Load8(up, gate + a.columns, count, whole);
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[i] = Activate(x[i], a.form) * up[i];
    Store8(static_cast<T*>(a.out.data) + row * a.out.stride + column, x, count, whole);
  }
}

__global__ void SoftCapKernel(Rows x, int64_t rows, int64_t columns, float cap, bool aligned) {
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  const int count = static_cast<int>(columns - column);
  if (count <= 0) return;
  const bool whole = aligned && count >= kVector;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float* p = static_cast<float*>(x.data) + row * x.stride + column;
    float value[kVector];
    Load8(value, p, count, whole);
#pragma unroll
    for (int i = 0; i < kVector; ++i) value[i] = cap * ExactTanh(__fdiv_rn(value[i], cap));
    Store8(p, value, count, whole);
  }
}

template <typename T>
__global__ void EmbeddingKernel(EmbeddingArguments a, bool aligned) {
  const int column =
      (static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x)) * kVector;
  const int count = static_cast<int>(a.columns) - column;
  if (count <= 0) return;
  const bool whole = aligned && count >= kVector;
  for (int64_t i = blockIdx.y; i < a.rows; i += gridDim.y) {
    const int64_t row = a.tokens[i] - a.vocab_begin;
    float x[kVector] = {};
    if (row >= 0 && row < a.table_rows) {
      Load8(x, static_cast<const T*>(a.table.data) + row * a.table.stride + column, count, whole);
#pragma unroll
      for (int k = 0; k < kVector; ++k) x[k] *= a.scale;
    }
    Store8(static_cast<float*>(a.out.data) + i * a.out.stride + column, x, count, whole);
  }
}

template <typename T>
__global__ void GatherKernel(GatherArguments a, bool aligned) {
  constexpr int kEach = 16 / sizeof(T);
  const int column =
      (static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x)) * kEach;
  const int count = static_cast<int>(a.columns) - column;
  if (count <= 0) return;
  for (int64_t i = blockIdx.y; i < a.rows; i += gridDim.y) {
    const int64_t row = a.index[i];
    if (row < 0 || row >= a.x_rows) __trap();
    const T* from = static_cast<const T*>(a.x.data) + row * a.x.stride + column;
    T* to = static_cast<T*>(a.out.data) + i * a.out.stride + column;
    if (aligned && count >= kEach) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      continue;
    }
    for (int k = 0; k < kEach && k < count; ++k) to[k] = from[k];
  }
}

}  // namespace

void LaunchGated(const GatedArguments& a, cudaStream_t stream) {
  if (a.rows == 0 || a.columns == 0) return;
  const int64_t element = a.bfloat16 ? 2 : 4;
  const bool aligned =
      Aligned(a.out, element) && Aligned(a.gate_up, element) && a.columns * element % 16 == 0;
  const dim3 grid = GridOf(a.rows, a.columns);
  if (a.bfloat16) {
    GatedKernel<Bf16><<<grid, kThreads, 0, stream>>>(a, aligned);
  } else {
    GatedKernel<float><<<grid, kThreads, 0, stream>>>(a, aligned);
  }
}

void LaunchSoftCap(Rows x, int64_t rows, int64_t columns, float cap, cudaStream_t stream) {
  if (rows == 0 || columns == 0) return;
  SoftCapKernel<<<GridOf(rows, columns), kThreads, 0, stream>>>(x, rows, columns, cap,
                                                                Aligned(x, 4));
}

void LaunchEmbedding(const EmbeddingArguments& a, cudaStream_t stream) {
  if (a.rows == 0 || a.columns == 0) return;
  const bool aligned = Aligned(a.out, 4) && Aligned(a.table, a.bfloat16 ? 2 : 4);
  const dim3 grid = GridOf(a.rows, a.columns);
  if (a.bfloat16) {
    EmbeddingKernel<Bf16><<<grid, kThreads, 0, stream>>>(a, aligned);
  } else {
    EmbeddingKernel<float><<<grid, kThreads, 0, stream>>>(a, aligned);
  }
}

void LaunchGather(const GatherArguments& a, cudaStream_t stream) {
  if (a.rows == 0 || a.columns == 0) return;
  const bool aligned = Aligned(a.out, a.element_bytes) && Aligned(a.x, a.element_bytes);
  // Half as many elements a thread where they are wider.
  const dim3 grid = GridOf(a.rows, a.columns * a.element_bytes / 2);
  if (a.element_bytes == 2) {
    GatherKernel<uint16_t><<<grid, kThreads, 0, stream>>>(a, aligned);
  } else {
    GatherKernel<uint32_t><<<grid, kThreads, 0, stream>>>(a, aligned);
  }
}

}  // namespace tessera::cuda
