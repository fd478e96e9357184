// Products with packed weights, see gemm_run.h: each thread takes a range of output panels and runs
// every x tile over them. Rows beyond the workspace are done in further passes over the weight.

#include <algorithm>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/gemm_run.h"

namespace tessera::cpu {
namespace {

// x rows per pass over the weight: from here the weight's bytes no longer matter.
constexpr int64_t kPassRowsMax = 256;
// Multiply-adds worth handing to another thread, some microseconds of work.
constexpr int64_t kGrain = 128 << 10;

// x . w^T, see MultiplyPanels for `write`.
template <typename Write>
void Multiply(const ExecContext& context, const KernelTable& kernels, const TensorView& x,
              const PackedWeight& weight, Write write) {
  const int64_t columns = x.dims[1];
  float* packed = context.workspace.as<float>();
  const int64_t room = context.workspace.dims[0] / (columns * static_cast<int64_t>(sizeof(float)));
  TESSERA_CHECK(room >= 1) << "workspace of " << context.workspace.dims[0] << " bytes for "
                           << columns << " columns";
  const int64_t pass_rows = std::min(room, kPassRowsMax);
  for (int64_t row = 0; row < x.dims[0]; row += pass_rows) {
    const int64_t rows = std::min(pass_rows, x.dims[0] - row);
    const RowTiles tiles = RowTiles::Of(rows, kernels);
    const auto pack = [&](int64_t begin, int64_t end) {
      WithType(x.dtype, [&](auto t) {
        for (int64_t tile = begin; tile < end; ++tile) {
          PackTile(tiles, columns, packed, tile,
                   [&](int64_t r) { return Row<const decltype(t)>(x, row + r); });
        }
      });
    };
    ParallelFor(context.threads, tiles.tiles, 1 + kGrain / (columns * kernels.rows_max), pack);
    const auto multiply = [&](int64_t begin, int64_t end) {
      MultiplyPanels(kernels, weight, tiles, packed, begin, end,
                     [&](int64_t r, int64_t column, int64_t n, const float* values) {
                       write(row + r, column, n, values);
                     });
    };
    ParallelFor(context.threads, weight.panels(), 1 + kGrain / (rows * columns * kPanelColumns),
                multiply);
  }
}

const PackedWeight& Packed(const Weight& weight, const TensorView& out, const TensorView& x) {
  TESSERA_CHECK(out.rank == 2 && x.rank == 2 && out.dims[0] == x.dims[0] &&
                out.dims[1] == weight.rows() && x.dims[1] == weight.columns())
      << "out [" << out.dims[0] << ", " << out.dims[1] << "], x [" << x.dims[0] << ", " << x.dims[1]
      << "], weight [" << weight.rows() << ", " << weight.columns() << "]";
  return static_cast<const PackedWeight&>(weight);
}

}  // namespace

size_t CpuOps::WorkspaceBytes(int64_t tokens_max, int64_t /*rows_max*/, int64_t widest) {
  const int64_t rows = std::clamp<int64_t>(tokens_max, 1, kPassRowsMax);
  return static_cast<size_t>(rows * widest) * sizeof(float);
}

absl::StatusOr<std::unique_ptr<Weight>> CpuOps::NewWeight(const WeightShape& shape) {
  return PackedWeight::Create(shape);
}

void CpuOps::PackRows(Weight& weight, int64_t row_begin, TensorView source) {
  static_cast<PackedWeight&>(weight).Pack(row_begin, source);
}

void CpuOps::MatMul(const ExecContext& context, TensorView out, TensorView x, const Weight& w,
                    TensorView bias) {
  const PackedWeight& weight = Packed(w, out, x);
  TESSERA_CHECK(!weight.row_parallel()) << "row-parallel weight given to MatMul";
  TESSERA_CHECK(bias.empty() || (bias.dtype == x.dtype && bias.dims[0] == weight.rows()))
      << "bias of " << bias.dims[0] << " " << DTypeName(bias.dtype);
  const auto run = [&](auto t, auto add_bias) {
    using Out = decltype(t);
    Multiply(context, kernels_, x, weight,
             [&](int64_t row, int64_t column, int64_t n, const float* values) {
               add_bias(Row<Out>(out, row) + column, values, column, n);
             });
  };
  const auto with_bias = [&](auto add_row, auto* base) {
    return [add_row, base](auto* to, const float* values, int64_t column, int64_t n) {
      add_row(to, values, base == nullptr ? nullptr : base + column, n);
    };
  };
  if (out.dtype == DType::kBFloat16) {
    TESSERA_CHECK(x.dtype == DType::kBFloat16) << "bfloat16 product of " << DTypeName(x.dtype);
    run(BFloat16{}, with_bias(kernels_.bfloat16_rows.add_bias, bias.as<const BFloat16>()));
    return;
  }
  TESSERA_CHECK(out.dtype == DType::kFloat32) << DTypeName(out.dtype) << " product";
  if (x.dtype == DType::kBFloat16) {
    run(float{}, with_bias(kernels_.add_bias_mixed, bias.as<const BFloat16>()));
  } else {
    run(float{}, with_bias(kernels_.float_rows.add_bias, bias.as<const float>()));
  }
}

void CpuOps::MatMulPartial(const ExecContext& context, TensorView out, TensorView x,
                           const Weight& w) {
  const PackedWeight& weight = Packed(w, out, x);
  TESSERA_CHECK(weight.row_parallel()) << "MatMulPartial needs a row-parallel weight";
  TESSERA_CHECK(out.dtype == DType::kFloat32) << DTypeName(out.dtype) << " partial sums";
  Multiply(context, kernels_, x, weight,
           [&](int64_t row, int64_t column, int64_t n, const float* values) {
             std::copy_n(values, n, Row<float>(out, row) + column);
           });
}

// Heads are shared out over the threads, each with its own part of the workspace. A panel at the
// border of two heads is computed for either.
void CpuOps::MatMulHeads(const ExecContext& context, TensorView out, TensorView x, const Weight& w,
                         int64_t num_heads) {
  const PackedWeight& weight = static_cast<const PackedWeight&>(w);
  TESSERA_CHECK(num_heads > 0 && weight.rows() % num_heads == 0 && out.rank == 2 && x.rank == 2 &&
                out.dims[0] == x.dims[0] && out.dtype == x.dtype && !weight.row_parallel())
      << "weight [" << weight.rows() << ", " << weight.columns() << "] for " << num_heads;
  const int64_t n = weight.rows() / num_heads;
  const int64_t columns = weight.columns();
  const int64_t out_stride = out.dims[1] / num_heads;
  const int64_t x_stride = x.dims[1] / num_heads;
  TESSERA_CHECK(n <= out_stride && columns <= x_stride)
      << "heads of " << out_stride << " from heads of " << x_stride;
  const int64_t row_bytes = num_heads * columns * static_cast<int64_t>(sizeof(float));
  const int64_t pass_rows = std::min(context.workspace.dims[0] / row_bytes, kPassRowsMax);
  TESSERA_CHECK(pass_rows >= 1) << "workspace of " << context.workspace.dims[0] << " bytes";
  WithType(x.dtype, [&](auto t) {
    using T = decltype(t);
    for (int64_t row = 0; row < x.dims[0]; row += pass_rows) {
      const int64_t rows = std::min(pass_rows, x.dims[0] - row);
      const RowTiles tiles = RowTiles::Of(rows, kernels_);
      const auto multiply = [&](int64_t begin, int64_t end) {
        for (int64_t head = begin; head < end; ++head) {
          float* packed = context.workspace.as<float>() + head * rows * columns;
          for (int64_t tile = 0; tile < tiles.tiles; ++tile) {
            PackTile(tiles, columns, packed, tile,
                     [&](int64_t r) { return Row<const T>(x, row + r) + head * x_stride; });
          }
          const int64_t first = head * n;  // row of the weight
          const int64_t last = first + n;
          MultiplyPanels(kernels_, weight, tiles, packed, first / kPanelColumns,
                         (last + kPanelColumns - 1) / kPanelColumns,
                         [&](int64_t r, int64_t column, int64_t count, const float* values) {
                           const int64_t from = std::max(column, first);
                           const int64_t to = std::min(column + count, last);
                           kernels_.rows<T>().add_bias(
                               Row<T>(out, row + r) + head * out_stride + (from - first),
                               values + (from - column), nullptr, to - from);
                         });
        }
      };
      ParallelFor(context.threads, num_heads, 1 + kGrain / (rows * columns * n), multiply);
    }
  });
}

}  // namespace tessera::cpu
