// The register-blocked product of one x tile with one to four packed panels. Every output
// element is one float32 accumulator over k in order, so rows, panels and tile shape do not
// show in the bits.

#ifndef TESSERA_KERNELS_CPU_GEMM_KERNEL_H_
#define TESSERA_KERNELS_CPU_GEMM_KERNEL_H_

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace tessera::cpu {

template <typename S, int kRows, int kPanels>
struct GemmAccumulators {
  typename S::F sum[kRows][kPanels];

  void Clear() {
    for (auto& row : sum) {
      for (auto& panel : row) panel = S::Set(0.0f);
    }
  }
  // One k: x [kRows], w [kPanels].
  [[gnu::always_inline]] void Step(const float* x, const typename S::F (&w)[kPanels]) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const typename S::F broadcast = S::Set(x[r]);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) sum[r][p] = S::Fma(broadcast, w[p], sum[r][p]);
    }
  }
  void Store(float* out) const {
    for (int r = 0; r < kRows; ++r) {
      for (int p = 0; p < kPanels; ++p) {
        S::Store(out + (r * kPanels + p) * kPanelColumns, sum[r][p]);
      }
    }
  }
};

template <typename S, int kRows, int kPanels>
void GemmTileFloat(const GemmTile& tile) {
  const float* w = static_cast<const float*>(tile.w);
  GemmAccumulators<S, kRows, kPanels> acc;
  acc.Clear();
  for (int64_t k = 0; k < tile.k; ++k) {
    typename S::F columns[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      columns[p] = S::Load(w + p * tile.panel_stride + k * kPanelColumns);
    }
    acc.Step(tile.x + k * kRows, columns);
  }
  acc.Store(tile.out);
}

template <typename S, int kRows, int kPanels>
void GemmTileBFloat16(const GemmTile& tile) {
  const BFloat16* w = static_cast<const BFloat16*>(tile.w);
  GemmAccumulators<S, kRows, kPanels> acc;
  acc.Clear();
  typename S::F columns[kPanels];
  int64_t k = 0;
  for (; k + 2 <= tile.k; k += 2) {
    typename S::Pairs pairs[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      pairs[p] = S::LoadPairs(w + p * tile.panel_stride + k * kPanelColumns);
      columns[p] = S::Even(pairs[p]);
    }
    acc.Step(tile.x + k * kRows, columns);
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) columns[p] = S::Odd(pairs[p]);
    acc.Step(tile.x + (k + 1) * kRows, columns);
  }
  if (k < tile.k) {
    for (int p = 0; p < kPanels; ++p) {
      columns[p] = S::Even(S::LoadPairs(w + p * tile.panel_stride + k * kPanelColumns));
    }
    acc.Step(tile.x + k * kRows, columns);
  }
  acc.Store(tile.out);
}

template <typename S, int kRows, int kPanels>
void GemmTileFloat8(const GemmTile& tile) {
  const uint8_t* w = static_cast<const uint8_t*>(tile.w);
  GemmAccumulators<S, kRows, kPanels> acc;
  acc.Clear();
  for (int64_t k = 0; k < tile.k; ++k) {
    typename S::F columns[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      columns[p] = S::LoadFloat8(w + p * tile.panel_stride + k * kPanelColumns);
    }
    acc.Step(tile.x + k * kRows, columns);
  }
  acc.Store(tile.out);
}

template <typename S, int kRows>
void GemmRowsFloat8(const GemmTile& tile) {
  if (tile.panels == 1) return GemmTileFloat8<S, kRows, 1>(tile);
  GemmTileFloat8<S, kRows, S::Panels(kRows)>(tile);
}

template <typename S, int kRows>
void GemmRowsFloat(const GemmTile& tile) {
  if (tile.panels == 1) return GemmTileFloat<S, kRows, 1>(tile);
  GemmTileFloat<S, kRows, S::Panels(kRows)>(tile);
}

template <typename S, int kRows>
void GemmRowsBFloat16(const GemmTile& tile) {
  if (tile.panels == 1) return GemmTileBFloat16<S, kRows, 1>(tile);
  GemmTileBFloat16<S, kRows, S::Panels(kRows)>(tile);
}

// Calls the instance for tile.rows, at most S::kRowsMax.
template <typename S, int kRows = S::kRowsMax>
void GemmFloat(const GemmTile& tile) {
  if (tile.rows == kRows) return GemmRowsFloat<S, kRows>(tile);
  if constexpr (kRows > 1) GemmFloat<S, kRows - 1>(tile);
}

template <typename S, int kRows = S::kRowsMax>
void GemmFloat8(const GemmTile& tile) {
  if (tile.rows == kRows) return GemmRowsFloat8<S, kRows>(tile);
  if constexpr (kRows > 1) GemmFloat8<S, kRows - 1>(tile);
}

template <typename S, int kRows = S::kRowsMax>
void GemmBFloat16(const GemmTile& tile) {
  if (tile.rows == kRows) return GemmRowsBFloat16<S, kRows>(tile);
  if constexpr (kRows > 1) GemmBFloat16<S, kRows - 1>(tile);
}

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_GEMM_KERNEL_H_
