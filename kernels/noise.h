// Made-up numbers for weights that nobody trained: a pure function of a seed and a place, the same
// bits on every device and however a tensor is divided over ranks. Used by every backend.

#ifndef TESSERA_KERNELS_NOISE_H_
#define TESSERA_KERNELS_NOISE_H_

#include <cstdint>

namespace tessera {

// Element (row, column) of a matrix is center + spread * u, u in [-1, 1) being the number of place
// first + row * row_step + column * column_step.
struct NoiseSpec {
  uint64_t seed = 0;
  int64_t first = 0;
  int64_t row_step = 0;
  int64_t column_step = 1;
  float center = 0.0f;
  float spread = 1.0f;
};

constexpr float NoiseAt(const NoiseSpec& noise, int64_t row, int64_t column) {
  const int64_t place = noise.first + row * noise.row_step + column * noise.column_step;
  uint64_t z = noise.seed + (static_cast<uint64_t>(place) + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  // 24 bits: exact in float32.
  const int32_t word = static_cast<int32_t>(z >> 40) - (1 << 23);
  return noise.center + noise.spread * (static_cast<float>(word) * 0x1p-23f);
}

}  // namespace tessera

#endif  // TESSERA_KERNELS_NOISE_H_
