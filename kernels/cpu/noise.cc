// Weights that are made up instead of loaded. Rank's thread, while loading.

#include "kernels/noise.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/packed_weight.h"

namespace tessera::cpu {
namespace {

// Rows made before they are packed; whole panels.
constexpr int64_t kNoiseRows = 16;

}  // namespace

void CpuOps::FillRows(Weight& weight, int64_t row_begin, int64_t rows, const NoiseSpec& noise) {
  PackedWeight& packed = static_cast<PackedWeight&>(weight);
  const int64_t columns = packed.columns();
  std::vector<float> made(static_cast<size_t>(kNoiseRows * columns));
  for (int64_t row = 0; row < rows; row += kNoiseRows) {
    const int64_t n = std::min(kNoiseRows, rows - row);
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = 0; c < columns; ++c) made[r * columns + c] = NoiseAt(noise, row + r, c);
    }
    packed.Pack(row_begin + row, TensorView(made.data(), DType::kFloat32, {n, columns}));
  }
}

void CpuOps::Fill(const ExecContext&, TensorView out, const NoiseSpec& noise) {
  TESSERA_CHECK(out.rank <= 2) << out.rank << " dimensions";
  WithType(out.dtype, [&](auto t) {
    for (int64_t row = 0; row < out.dims[0]; ++row) {
      auto* to = Row<decltype(t)>(out, row);
      for (int64_t c = 0; c < out.dims[1]; ++c) {
        const float value = NoiseAt(noise, row, c);
        if constexpr (std::is_same_v<decltype(t), float>) {
          to[c] = value;
        } else {
          to[c] = ToBFloat16(value);
        }
      }
    }
  });
}

}  // namespace tessera::cpu
