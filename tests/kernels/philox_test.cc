// The generator against the known answers published with it, and the shape of the noise made
// from it.

#include "kernels/philox.h"

#include <cmath>

#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, NoiseIsFiniteAndBelowTheBound) {
  for (uint32_t word : {0u, 1u, 0x7fffffffu, 0x80000000u, 0xfffffffeu, 0xffffffffu}) {
    const double u = 1.0 - OneMinusUniform(word);
    EXPECT_GT(u, 0.0) << word;
    EXPECT_LT(u, 1.0) << word;
    EXPECT_TRUE(std::isfinite(GumbelFromWord(word))) << word;
    EXPECT_LT(GumbelFromWord(word), kGumbelNoiseMax) << word;
    // What lets the sampler skip tokens: the noise is at most -log(1 - u).
    EXPECT_LE(GumbelFromWord(word), -std::log(OneMinusUniform(word))) << word;
  }
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
