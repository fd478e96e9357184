// The inner loops of the CPU backend, compiled once per instruction set and picked at run time. All
// tables give the same bits; they differ in speed only. Called by the CpuOps methods from any
// thread of a pool; no function here allocates, fails, or keeps state.

#ifndef TESSERA_KERNELS_CPU_KERNEL_TABLE_H_
#define TESSERA_KERNELS_CPU_KERNEL_TABLE_H_

#include <cstdint>

#include "base/dtype.h"
#include "kernels/ops.h"

namespace tessera::cpu {

enum class Isa {
  kPlain,   // loops; the oracle of the tests
  kAvx2,    // with FMA: the floor of the build
  kAvx512,  // F, BW, VL
};

inline constexpr int kPanelColumns = 16;  // output columns of a packed panel
inline constexpr int kRowsMax = 8;        // rows of an x tile, upper bound over instruction sets
inline constexpr int kPanelsMax = 4;      // panels of one tile, likewise
inline constexpr int kKvTile = 16;        // tokens of one attention tile, from position 0
inline constexpr int kHeadSizeMax = 576;  // a latent entry of 512 + 64
inline constexpr int kPairsMax = 16;      // (query, head) pairs that share one pass over the cache

// out = x . w over one run of k, from zero, k in order, one FMA per element.
struct GemmTile {
  const float* x;  // [k][rows]
  const void* w;   // [panels] of [k][16] float32 or float8, or [k / 2][16][2] bfloat16, k even
  int64_t panel_stride;  // elements from panel to panel
  int64_t k;
  int rows;    // 1 .. rows_max
  int panels;  // 1 or panels[rows]
  float* out;  // [rows][panels * 16]
};

// One KV tile against several (query, head) pairs: an online softmax step for each.
struct AttentionTile {
  const float* q;         // [pairs][head_size]
  int pairs;              // 1 .. kPairsMax
  const int* first_lane;  // [pairs] tokens of the tile that the pair sees: [first_lane, last_lane)
  const int* last_lane;   // [pairs]
  const float* k;         // [head_size][16]
  const float* v;         // [16][padded_size]
  int64_t head_size;      // of queries and keys
  int64_t padded_size;    // elements of a value, rounded up to 16
  float scale;
  float softcap;  // 0: none
  float* max;     // [pairs] running maximum, -inf at the start
  float* sum;     // [pairs] running sum of exp(score - max), 0 at the start
  float* out;     // [pairs][padded_size] running sum of exp(score - max) * v, 0 at the start
};

// Row operations on activations of type T; n elements.
template <typename T>
struct RowKernels {
  // out = x / rms(x) * (weight + offset); out may be x
  void (*rms_norm)(T* out, const T* x, const T* weight, int64_t n, float eps, float offset);
  // out = (x - mean) / deviation * weight + bias; out may be x
  void (*layer_norm)(T* out, const T* x, const T* weight, const T* bias, int64_t n, float eps);
  // residual += sum + bias; bias may be null
  void (*add_residual)(T* residual, const float* sum, const T* bias, int64_t n);
  // residual += (sum + bias) / rms(sum + bias) * (weight + offset); bias may be null
  void (*add_normed)(T* residual, const float* sum, const T* bias, const T* weight, int64_t n,
                     float eps, float offset);
  // out = act(gate) * up
  void (*gated)(T* out, const T* gate, const T* up, int64_t n, Activation act);
  // out = in + bias; bias may be null
  void (*add_bias)(T* out, const float* in, const T* bias, int64_t n);
};

struct KernelTable {
  const char* name;
  int rows_max;              // of an x tile
  int panels[kRowsMax + 1];  // best panels per tile for each number of rows
  void (*gemm_float)(const GemmTile& tile);
  void (*gemm_bfloat16)(const GemmTile& tile);
  void (*gemm_float8)(const GemmTile& tile);
  void (*attention)(const AttentionTile& tile);
  RowKernels<float> float_rows;
  RowKernels<BFloat16> bfloat16_rows;
  // out = in + bias with float32 output and bfloat16 bias (logits).
  void (*add_bias_mixed)(float* out, const float* in, const BFloat16* bias, int64_t n);
  // x = cap * tanh(x / cap)
  void (*soft_cap)(float* x, int64_t n, float cap);
  // out = 1 / (1 + exp(-x)); out may be x
  void (*sigmoid)(float* out, const float* x, int64_t n);
  // to = fma(x, factor, to)
  void (*add_scaled)(float* to, const float* x, int64_t n, float factor);
  // Largest element that is not NaN; -inf if there is none.
  float (*max)(const float* x, int64_t n);
  // out = exp((x - max) * scale); exactly 1 where x == max.
  void (*exp_scaled)(float* out, const float* x, int64_t n, float max, float scale);

  template <typename T>
  const RowKernels<T>& rows() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return float_rows;
    } else {
      return bfloat16_rows;
    }
  }
};

const KernelTable& PlainKernels();
const KernelTable& Avx2Kernels();
const KernelTable& Avx512Kernels();

bool IsaSupported(Isa isa);  // by this machine
Isa BestIsa();
const KernelTable& KernelsFor(Isa isa);  // ends the process if not supported

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_KERNEL_TABLE_H_
