// The eight-bit float of four exponent and three mantissa bits that has no infinities (E4M3), as
// weights are kept in it: rounded to nearest, ties to even, and never beyond its largest number.
// Constant expressions, for every backend.

#ifndef TESSERA_BASE_FLOAT8_H_
#define TESSERA_BASE_FLOAT8_H_

#include <bit>
#include <cstdint>

namespace tessera {

inline constexpr float kFloat8Max = 448.0f;

// NaN becomes NaN.
constexpr uint8_t ToFloat8E4M3(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint8_t sign = static_cast<uint8_t>((u >> 24) & 0x80u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7fu;
  if (magnitude >= 0x43e00000u) return sign | 0x7eu;  // 448
  if (magnitude < 0x3c800000u) {                      // 2^-6: steps of 2^-9
    // Adding 1.5 * 2^(23 - 9) leaves the number of steps, rounded, in the lowest bits.
    const float steps = std::bit_cast<float>(magnitude) + 24576.0f;
    return sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(steps) & 0xffu);
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  const uint32_t bits = (rounded >> 20) - (120u << 3);
  return sign | static_cast<uint8_t>(bits < 0x7eu ? bits : 0x7eu);
}

// How a run of numbers whose largest magnitude is `largest` is kept: x becomes x * inverse, and
// what is kept counts `scale` times.
struct Float8Scale {
  float scale = 1.0f;
  float inverse = 1.0f;
};
constexpr Float8Scale Float8ScaleOf(float largest) {
  // The inverse of a tiny magnitude would be infinite.
  if (!(largest > 0x1p-100f)) return {};
  return {largest / kFloat8Max, kFloat8Max / largest};
}

}  // namespace tessera

#endif  // TESSERA_BASE_FLOAT8_H_
