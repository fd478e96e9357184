// Fills a KernelTable with the kernels of one Simd type. Included by kernels_<isa>.cc only.

#ifndef TESSERA_KERNELS_CPU_MAKE_TABLE_H_
#define TESSERA_KERNELS_CPU_MAKE_TABLE_H_

#include "kernels/cpu/attention_kernel.h"
#include "kernels/cpu/gemm_kernel.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/row_kernel.h"

namespace tessera::cpu {

template <typename S, typename T>
constexpr RowKernels<T> MakeRowKernels() {
  RowKernels<T> rows{};
  rows.rms_norm = RmsNormRow<S, T>;
  rows.layer_norm = LayerNormRow<S, T>;
  rows.add_residual = AddResidualRow<S, T>;
  rows.add_normed = AddNormedRow<S, T>;
  rows.gated = GatedRow<S, T>;
  rows.add_bias = AddBiasRow<S, T, T>;
  return rows;
}

template <typename S>
constexpr KernelTable MakeTable() {
  static_assert(S::kRowsMax <= kRowsMax);
  KernelTable table{};
  table.name = S::kName;
  table.rows_max = S::kRowsMax;
  for (int rows = 1; rows <= S::kRowsMax; ++rows) table.panels[rows] = S::Panels(rows);
  table.gemm_float = GemmFloat<S>;
  table.gemm_bfloat16 = GemmBFloat16<S>;
  table.gemm_float8 = GemmFloat8<S>;
  table.attention = Attention<S>;
  table.float_rows = MakeRowKernels<S, float>();
  table.bfloat16_rows = MakeRowKernels<S, BFloat16>();
  table.add_bias_mixed = AddBiasRow<S, float, BFloat16>;
  table.soft_cap = SoftCapRow<S>;
  table.sigmoid = SigmoidRow<S>;
  table.add_scaled = AddScaledRow<S>;
  table.max = MaxValue<S>;
  table.exp_scaled = ExpScaledRow<S>;
  return table;
}

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_MAKE_TABLE_H_
