// Conversions, exhaustively where 16 bits allow it.

#include "base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tessera {
namespace {

TEST(DTypeTest, EveryBFloat16SurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const BFloat16 x{static_cast<uint16_t>(bits)};
    const float wide = ToFloat(x);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(wide)))) << bits;
    } else {
      EXPECT_EQ(ToBFloat16(wide).bits, x.bits) << bits;
    }
  }
}

TEST(DTypeTest, RoundsToNearestTiesToEven) {
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // tie, even below
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);  // tie, even above
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f807fffu)).bits, 0x3f80);
  EXPECT_EQ(ToBFloat16(std::numeric_limits<float>::max()).bits, 0x7f80);  // beyond the largest
}

TEST(DTypeTest, EveryFloat16IsWidenedExactly) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const int exponent = static_cast<int>((bits >> 10) & 0x1f);
    const int mantissa = static_cast<int>(bits & 0x3ff);
    const float sign = (bits & 0x8000) != 0 ? -1.0f : 1.0f;
    const float got = Float16ToFloat(static_cast<uint16_t>(bits));
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(got), mantissa != 0) << bits;
      if (mantissa == 0) {
        EXPECT_EQ(got, sign * std::numeric_limits<float>::infinity());
      }
      continue;
    }
    const float expected =
        exponent == 0 ? sign * std::ldexp(static_cast<float>(mantissa), -24)
                      : sign * std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
    EXPECT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(expected)) << bits;
  }
}

TEST(DTypeTest, EveryFloat8IsWidenedExactly) {
  for (uint32_t bits = 0; bits <= 0xff; ++bits) {
    const int exponent = static_cast<int>((bits >> 3) & 0xf);
    const int mantissa = static_cast<int>(bits & 0x7);
    const float sign = (bits & 0x80) != 0 ? -1.0f : 1.0f;
    const float got = Float8E4M3ToFloat(static_cast<uint8_t>(bits));
    if (exponent == 15 && mantissa == 7) {
      EXPECT_TRUE(std::isnan(got)) << bits;
      continue;
    }
    const float expected = exponent == 0
                               ? sign * std::ldexp(static_cast<float>(mantissa), -9)
                               : sign * std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    EXPECT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(expected)) << bits;
  }
  EXPECT_EQ(Float8E4M3ToFloat(0x7e), 448.0f);
}

}  // namespace
}  // namespace tessera
