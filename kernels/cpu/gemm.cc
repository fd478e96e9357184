// Products with packed weights. x is widened to float32 and laid out in tiles of up to eight
// rows in the workspace; each thread then takes a range of output panels and runs every x
// tile over them. Rows beyond the workspace are done in further passes over the weight.
// Nothing is split over K.

#include <algorithm>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/packed_weight.h"

namespace tessera::cpu {
namespace {

// x rows per pass over the weight: from here the weight's bytes no longer matter.
constexpr int64_t kPassRowsMax = 256;
// Multiply-adds worth handing to another thread, some microseconds of work.
constexpr int64_t kGrain = 128 << 10;

// The rows of one pass in tiles of nearly equal height.
struct RowTiles {
  int64_t rows;
  int64_t tiles;
  int64_t Begin(int64_t tile) const { return rows * tile / tiles; }
  int Height(int64_t tile) const { return static_cast<int>(Begin(tile + 1) - Begin(tile)); }
};

// Tile by tile [K][height].
template <typename T>
void PackX(const RowTiles& tiles, const TensorView& x, int64_t row_begin, float* packed,
           int64_t tile_begin, int64_t tile_end) {
  const int64_t columns = x.dims[1];
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    const int64_t begin = tiles.Begin(tile);
    const int height = tiles.Height(tile);
    float* to = packed + begin * columns;
    for (int r = 0; r < height; ++r) {
      const T* from = Row<const T>(x, row_begin + begin + r);
      for (int64_t k = 0; k < columns; ++k) to[k * height + r] = ToFloat(from[k]);
    }
  }
}

// Sums n = 1, 2, 4 or 8 tiles of `size` floats, `stride` apart, pairwise into the first.
void SumTree(float* tiles, int64_t n, int64_t stride, int64_t size) {
  for (int64_t step = 1; step < n; step *= 2) {
    for (int64_t s = 0; s < n; s += 2 * step) {
      float* left = tiles + s * stride;
      const float* right = tiles + (s + step) * stride;
      for (int64_t i = 0; i < size; ++i) left[i] += right[i];
    }
  }
}

// One output tile: rows x (panels * 16), all slices, the tree sum in result[0 ..].
struct TileRunner {
  static constexpr int kTileMax = kRowsMax * kPanelsMax * kPanelColumns;

  TileRunner(const KernelTable& kernels_in, const PackedWeight& weight_in)
      : kernels(kernels_in), weight(weight_in) {}

  const KernelTable& kernels;
  const PackedWeight& weight;
  alignas(64) float result[kReduceSlices * kTileMax];  // [slices][rows][panels * 16]

  void Run(const float* x, int rows, int64_t panel, int panels) {
    GemmTile tile;
    tile.panel_stride = weight.panel_elements();
    tile.rows = rows;
    tile.panels = panels;
    tile.out = result;
    for (const PackedWeight::Slice& slice : weight.slices()) {
      tile.x = x + slice.begin * rows;
      tile.w = weight.At(panel, slice.packed_begin);
      tile.k = slice.count;
      (weight.dtype() == DType::kFloat32 ? kernels.gemm_float : kernels.gemm_bfloat16)(tile);
      tile.out += kTileMax;
    }
    SumTree(result, static_cast<int64_t>(weight.slices().size()), kTileMax,
            rows * panels * kPanelColumns);
  }
};

// Calls write(row, column, n, values) for each finished piece of an output row: all rows of a
// pass, which begins at `first_row`, for output panels [begin, end).
template <typename Write>
void MultiplyPanels(const KernelTable& kernels, const PackedWeight& weight, const RowTiles& tiles,
                    const float* packed, int64_t first_row, int64_t begin, int64_t end,
                    Write write) {
  TileRunner runner(kernels, weight);
  // Panels that stay in the cache while the x tiles pass over them; tile 0 is the lowest, so it
  // takes the most panels at once.
  const int64_t group = kernels.panels[tiles.Height(0)];
  for (int64_t group_begin = begin; group_begin < end; group_begin += group) {
    const int64_t group_end = std::min(end, group_begin + group);
    for (int64_t tile = 0; tile < tiles.tiles; ++tile) {
      const int height = tiles.Height(tile);
      int panels = kernels.panels[height];
      for (int64_t panel = group_begin; panel < group_end; panel += panels) {
        if (panel + panels > group_end) panels = 1;
        runner.Run(packed + tiles.Begin(tile) * weight.columns(), height, panel, panels);
        const int64_t column = panel * kPanelColumns;
        const int64_t n = std::min<int64_t>(panels * kPanelColumns, weight.rows() - column);
        for (int r = 0; r < height; ++r) {
          write(first_row + tiles.Begin(tile) + r, column, n,
                runner.result + r * panels * kPanelColumns);
        }
      }
    }
  }
}

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
    const RowTiles tiles{rows, (rows + kernels.rows_max - 1) / kernels.rows_max};
    const auto pack = [&](int64_t begin, int64_t end) {
      WithType(x.dtype, [&](auto t) { PackX<decltype(t)>(tiles, x, row, packed, begin, end); });
    };
    ParallelFor(context.threads, tiles.tiles, 1 + kGrain / (columns * kernels.rows_max), pack);
    const auto multiply = [&](int64_t begin, int64_t end) {
      MultiplyPanels(kernels, weight, tiles, packed, row, begin, end, write);
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

}  // namespace tessera::cpu
