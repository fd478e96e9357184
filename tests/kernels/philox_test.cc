// The generator against the known answers published with it, and the shape of the noise made
// from it.

#include "kernels/philox.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>

#include "gtest/gtest.h"

namespace tessera {
namespace {

constexpr uint64_t kWords = uint64_t{1} << 32;

// TESSERA_TEST_SCALE above 1: time to look at the noise of every word.
bool LongForm() {
  const char* text = std::getenv("TESSERA_TEST_SCALE");
  return text != nullptr && std::atoi(text) > 1;
}

TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// All 2^32 words, one by one: u and 1 - u lie strictly inside (0, 1) and lose no bit.
TEST(Philox, EveryWordMapsInsideTheUnitInterval) {
  constexpr double kLeast = 0x1p-33;
  constexpr double kMost = 1.0 - 0x1p-33;
  static_assert(kLeast > 0.0 && kMost < 1.0);
  uint64_t outside = 0;
  uint64_t inexact = 0;
  // Halves of a word apart, so that the compiler can take several words at once.
  for (uint32_t high = 0; high < 1u << 16; ++high) {
    for (uint32_t low = 0; low < 1u << 16; ++low) {
      const double rest = OneMinusUniform(high << 16 | low);
      const double u = 1.0 - rest;
      const double exact = (high * 65536.0 + static_cast<int32_t>(low) + 0.5) * 0x1p-32;
      const bool inside = (rest >= kLeast) & (rest <= kMost) & (u >= kLeast) & (u <= kMost);
      outside += inside ? uint64_t{0} : uint64_t{1};
      inexact += u == exact ? uint64_t{0} : uint64_t{1};
    }
  }
  EXPECT_EQ(outside, 0u);
  EXPECT_EQ(inexact, 0u);
  EXPECT_EQ(1.0 - OneMinusUniform(0), kLeast);
  EXPECT_EQ(1.0 - OneMinusUniform(0xffffffffu), kMost);
}

// Finite, below the bound, and at most -log(1 - u), which is what lets the sampler skip tokens; and
// growing with the word, so that no two words are out of order. Every word in the long form.
TEST(Philox, NoiseIsFiniteAndBelowTheBound) {
  const uint64_t stride = LongForm() ? 1 : 997;
  double before = GumbelFromWord(0);
  ASSERT_TRUE(std::isfinite(before));
  uint64_t bad = 0;
  uint64_t words = 0;
  for (uint64_t i = 0; i < kWords + stride; i += stride, ++words) {
    const uint32_t word = static_cast<uint32_t>(std::min(i, kWords - 1));
    const double noise = GumbelFromWord(word);
    bad += !(std::isfinite(noise) && noise < kGumbelNoiseMax && noise >= before &&
             noise <= -std::log(OneMinusUniform(word)));
    before = noise;
  }
  std::cout << words << " words\n";
  EXPECT_EQ(bad, 0u);
  EXPECT_GT(GumbelFromWord(0xffffffffu), kGumbelNoiseMax - 0.001);
}

TEST(Philox, NoiseDependsOnEveryArgument) {
  const double noise = GumbelNoise(1, 2, 3, 4);
  EXPECT_EQ(noise, GumbelNoise(1, 2, 3, 4));
  EXPECT_NE(noise, GumbelNoise(uint64_t{1} << 32 | 1, 2, 3, 4));
  EXPECT_NE(noise, GumbelNoise(2, 2, 3, 4));
  EXPECT_NE(noise, GumbelNoise(1, 3, 3, 4));
  EXPECT_NE(noise, GumbelNoise(1, 2, 4, 4));
  for (uint32_t token = 5; token < 16; ++token) EXPECT_NE(noise, GumbelNoise(1, 2, 3, token));
}

// Mean of a standard Gumbel variate is Euler's constant, its variance pi^2 / 6.
TEST(Philox, NoiseHasTheGumbelMoments) {
  constexpr int kDraws = 200'000;
  double sum = 0;
  double squares = 0;
  for (uint32_t i = 0; i < kDraws; ++i) {
    const double noise = GumbelNoise(/*seed=*/42, /*position=*/i / 1000, /*choice=*/0, i % 1000);
    sum += noise;
    squares += noise * noise;
  }
  const double mean = sum / kDraws;
  EXPECT_NEAR(mean, 0.57722, 0.012);  // four standard errors
  EXPECT_NEAR(squares / kDraws - mean * mean, 1.64493, 0.04);
}

}  // namespace
}  // namespace tessera
