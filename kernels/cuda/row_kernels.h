// What the row kernels are told: plain numbers and pointers, so that the files nvcc reads need
// nothing of the worker's side. One launch function per kernel; asynchronous on the stream, the
// shapes were checked by rows.cc.

#ifndef TESSERA_KERNELS_CUDA_ROW_KERNELS_H_
#define TESSERA_KERNELS_CUDA_ROW_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace tessera::cuda {

enum class ActivationForm { kSilu, kGeluTanh, kGelu };

// Rows of a matrix, `stride` elements apart. A null pointer means that there is none.
struct Rows {
  void* data = nullptr;
  int64_t stride = 0;
};

// out = norm of x, or of residual += sum + bias (or the norm of that with sum_weight).
struct NormArguments {
  bool bfloat16 = true;  // of everything but `sum`; else float32
  int64_t rows = 0;
  int64_t columns = 0;
  Rows out;
  Rows x;         // RmsNorm
  Rows residual;  // AddResidualNorm
  // float32 rows that are summed in the ranks' tree: 1, 2, 4 or 8 of them.
  const float* parts[8] = {};
  int num_parts = 1;
  int64_t part_stride = 0;
  const void* bias = nullptr;
  const void* sum_weight = nullptr;
  const void* weight = nullptr;
  const void* norm_bias = nullptr;  // there: a LayerNorm
  float eps = 0.0f;
  float offset = 0.0f;  // added to weights
};
inline constexpr int64_t kNormColumnsMax = 32768;
void LaunchNorm(const NormArguments& arguments, cudaStream_t stream);

// out[i] = tree sum of parts[..][i]; out may be one of them.
void LaunchTreeSum(float* out, const float* const* parts, int num_parts, int64_t n,
                   cudaStream_t stream);

struct GatedArguments {
  bool bfloat16 = true;
  int64_t rows = 0;
  int64_t columns = 0;  // of out; gate_up has twice as many
  Rows out;
  Rows gate_up;
  ActivationForm form = ActivationForm::kSilu;
  const int32_t* row_count = nullptr;  // there: how many of `rows` exist, on the device
};
void LaunchGated(const GatedArguments& arguments, cudaStream_t stream);

// x = cap * tanh(x / cap), float32.
void LaunchSoftCap(Rows x, int64_t rows, int64_t columns, float cap, cudaStream_t stream);

struct EmbeddingArguments {
  bool bfloat16 = true;  // of the table; out is float32
  int64_t rows = 0;
  int64_t columns = 0;
  Rows out;
  Rows table;
  int64_t table_rows = 0;
  const int32_t* tokens = nullptr;
  int64_t vocab_begin = 0;
  float scale = 1.0f;
};
void LaunchEmbedding(const EmbeddingArguments& arguments, cudaStream_t stream);

// out[i] = x[index[i]]; `element_bytes` 2 or 4. An index outside x_rows traps.
struct GatherArguments {
  int element_bytes = 2;
  int64_t rows = 0;
  int64_t columns = 0;
  Rows out;
  Rows x;
  int64_t x_rows = 0;
  const int32_t* index = nullptr;
};
void LaunchGather(const GatherArguments& arguments, cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_ROW_KERNELS_H_
