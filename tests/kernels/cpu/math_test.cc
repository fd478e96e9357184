// The shared exponential: its error, its edges, and equal bits on every instruction set and
// in every lane.

#include <limits>

#include "tests/kernels/op_fixture.h"

namespace tessera {
namespace {

std::vector<float> Exp(cpu::Isa isa, const std::vector<float>& x) {
  // Through the sampler's pass: exp((x - max) * 1) with a max that no x reaches and that
  // subtracts nothing.
  std::vector<float> out(x.size());
  constexpr float kMax = 0.0f;
  cpu::KernelsFor(isa).exp_scaled(out.data(), x.data(), static_cast<int64_t>(x.size()), kMax, 1.0f);
  return out;
}

TEST(Exp, ErrorIsBelowOneAndAHalfUlp) {
  std::vector<float> x;
  for (float value = -87.3f; value < -1e-30f; value *= 0.9999f) x.push_back(value);
  const auto got = Exp(cpu::BestIsa(), x);
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp(static_cast<double>(x[i]));
    ASSERT_NEAR(got[i] / want, 1.0, 1.5 * 0x1p-23) << x[i];
  }
}

TEST(Exp, Edges) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto got =
      Exp(cpu::BestIsa(), {0.0f, -0.0f, -kInfinity, -1000.0f, -105.0f, -100.0f, -1e-45f});
  EXPECT_EQ(got[0], 1.0f);
  EXPECT_EQ(got[1], 1.0f);
  EXPECT_EQ(got[2], 0.0f);
  EXPECT_EQ(got[3], 0.0f);
  EXPECT_EQ(got[4], 0.0f);
  EXPECT_NEAR(got[5] / std::exp(-100.0), 1.0, 0.02);  // a subnormal
  EXPECT_EQ(got[6], 1.0f);
}

TEST(Exp, SameBitsInEveryInstructionSetAndTail) {
  Numbers numbers(51);
  auto x = numbers.Normal(1003, 40.0f);
  for (float& value : x) value = -std::fabs(value);
  const auto want = Exp(cpu::Isa::kPlain, x);
  for (cpu::Isa isa : {cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (!cpu::IsaSupported(isa)) continue;
    ExpectSameBits(Exp(isa, x), want, "whole row");
    for (size_t begin : {1, 7, 990, 1002}) {
      ExpectSameBits(Exp(isa, {x.begin() + begin, x.end()}), {want.begin() + begin, want.end()},
                     "from " + std::to_string(begin));
    }
  }
}

TEST(Numerics, NameIsStable) {
  EXPECT_EQ(CpuNumericsName(), CpuNumericsName());
  EXPECT_NE(CpuNumericsName().find("cpu-fp32fma-v1"), std::string::npos);
}

}  // namespace
}  // namespace tessera
