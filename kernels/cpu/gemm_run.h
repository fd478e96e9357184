// What every product with packed weights does: rows of x widened to float32 and laid out in tiles
// of up to eight, tiles run over output panels. Nothing is split over K, so neither tiles nor
// panels show in the bits. Used by gemm.cc and experts.cc, on any thread of a pool; nothing is
// allocated.

#ifndef TESSERA_KERNELS_CPU_GEMM_RUN_H_
#define TESSERA_KERNELS_CPU_GEMM_RUN_H_

#include <algorithm>
#include <cstdint>

#include "absl/types/span.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_weight.h"

namespace tessera::cpu {

// The rows of one pass in tiles of nearly equal height.
struct RowTiles {
  static RowTiles Of(int64_t rows, const KernelTable& kernels) {
    return {rows, (rows + kernels.rows_max - 1) / kernels.rows_max};
  }
  int64_t rows;
  int64_t tiles;
  int64_t Begin(int64_t tile) const { return rows * tile / tiles; }
  int Height(int64_t tile) const { return static_cast<int>(Begin(tile + 1) - Begin(tile)); }
};

// Lays out tile `tile` as [columns][height] in its place of `packed` [rows * columns]. row(r) is
// the address of row r of the pass.
template <typename RowOf>
void PackTile(const RowTiles& tiles, int64_t columns, float* packed, int64_t tile, RowOf row) {
  const int64_t begin = tiles.Begin(tile);
  const int height = tiles.Height(tile);
  float* to = packed + begin * columns;
  for (int r = 0; r < height; ++r) {
    const auto* from = row(begin + r);
    for (int64_t k = 0; k < columns; ++k) to[k * height + r] = ToFloat(from[k]);
  }
}

// Sums n = 1, 2, 4 or 8 tiles of `size` floats, `stride` apart, pairwise into the first.
inline void SumTree(float* tiles, int64_t n, int64_t stride, int64_t size) {
  for (int64_t step = 1; step < n; step *= 2) {
    for (int64_t s = 0; s < n; s += 2 * step) {
      float* left = tiles + s * stride;
      const float* right = tiles + (s + step) * stride;
      for (int64_t i = 0; i < size; ++i) left[i] += right[i];
    }
  }
}

// One output tile: rows x (panels * 16) over the given slices of K, their tree sum in result[0 ..].
struct TileRunner {
  static constexpr int kTileMax = kRowsMax * kPanelsMax * kPanelColumns;
  using Slices = absl::Span<const PackedWeight::Slice>;

  TileRunner(const KernelTable& kernels_in, const PackedWeight& weight_in, Slices slices_in)
      : kernels(kernels_in), weight(weight_in), slices(slices_in) {}

  const KernelTable& kernels;
  const PackedWeight& weight;
  const Slices slices;
  alignas(64) float result[kReduceSlices * kTileMax];  // [slices][rows][panels * 16]

  // Output columns times their scales.
  static void Scale(const GemmTile& tile, const float* scales) {
    const int columns = tile.panels * kPanelColumns;
    for (int r = 0; r < tile.rows; ++r) {
      for (int i = 0; i < columns; ++i) tile.out[r * columns + i] *= scales[i];
    }
  }

  void Run(const float* x, int rows, int64_t panel, int panels) {
    GemmTile tile;
    tile.panel_stride = weight.panel_elements();
    tile.rows = rows;
    tile.panels = panels;
    tile.out = result;
    for (const PackedWeight::Slice& slice : slices) {
      tile.x = x + slice.begin * rows;
      tile.w = weight.At(panel, slice.packed_begin);
      tile.k = slice.count;
      switch (weight.dtype()) {
        case DType::kFloat32:
          kernels.gemm_float(tile);
          break;
        case DType::kFloat8E4M3:
          kernels.gemm_float8(tile);
          Scale(tile, weight.Scales(slice) + panel * kPanelColumns);
          break;
        default:
          kernels.gemm_bfloat16(tile);
      }
      tile.out += kTileMax;
    }
    SumTree(result, static_cast<int64_t>(slices.size()), kTileMax, rows * panels * kPanelColumns);
  }
};

// Calls write(row, column, n, values) for each finished piece of an output row: all rows of a pass,
// for output panels [begin, end), over some of the weight's slices.
template <typename Write>
void MultiplySlices(const KernelTable& kernels, const PackedWeight& weight,
                    TileRunner::Slices slices, const RowTiles& tiles, const float* packed,
                    int64_t begin, int64_t end, Write write) {
  TileRunner runner(kernels, weight, slices);
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
          write(tiles.Begin(tile) + r, column, n, runner.result + r * panels * kPanelColumns);
        }
      }
    }
  }
}

template <typename Write>
void MultiplyPanels(const KernelTable& kernels, const PackedWeight& weight, const RowTiles& tiles,
                    const float* packed, int64_t begin, int64_t end, Write write) {
  MultiplySlices(kernels, weight, weight.slices(), tiles, packed, begin, end, write);
}

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_GEMM_RUN_H_
