// Float8 weights: the conversion against every float8 there is, products against double precision
// with what the weight really keeps, and the promise that tp does not show.

#include "base/float8.h"

#include <cmath>

#include "tests/kernels/op_fixture.h"

namespace tessera::float8_test {
namespace {

TEST(Float8Test, EveryNumberIsItsOwnNearest) {
  for (int bits = 0; bits < 256; ++bits) {
    const float x = Float8E4M3ToFloat(static_cast<uint8_t>(bits));
    if (std::isnan(x)) {
      EXPECT_EQ(ToFloat8E4M3(x) & 0x7f, 0x7f);
      continue;
    }
    EXPECT_EQ(ToFloat8E4M3(x), bits) << x;
    if ((bits & 0x7f) == 0x7e) continue;
    // Halfway to the next one the even one wins, a little beyond it the next.
    const float next = Float8E4M3ToFloat(static_cast<uint8_t>(bits + 1));
    const float middle = (x + next) / 2;
    const float away = middle < 0 ? -1000.0f : 1000.0f;
    EXPECT_EQ(ToFloat8E4M3(middle), bits % 2 == 0 ? bits : bits + 1) << middle;
    EXPECT_EQ(ToFloat8E4M3(std::nextafter(middle, away)), bits + 1) << middle;
    EXPECT_EQ(ToFloat8E4M3(std::nextafter(middle, 0.0f)), bits) << middle;
  }
  EXPECT_EQ(ToFloat8E4M3(1e30f), 0x7e);
  EXPECT_EQ(ToFloat8E4M3(-INFINITY), 0xfe);
}

class Float8ProductTest : public OpTest {};
INSTANTIATE_TEST_SUITE_P(All, Float8ProductTest, testing::ValuesIn(Backends()), BackendName);

// What columns [begin, end) of a row of weights become.
std::vector<float> Kept(const std::vector<float>& w, int64_t begin, int64_t end) {
  float largest = 0;
  for (int64_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(w[i]));
  const Float8Scale scale = Float8ScaleOf(largest);
  std::vector<float> kept;
  for (int64_t i = begin; i < end; ++i) {
    kept.push_back(Float8E4M3ToFloat(ToFloat8E4M3(w[i] * scale.inverse)) * scale.scale);
  }
  return kept;
}

TEST_P(Float8ProductTest, MatchesDoublePrecision) {
  Numbers numbers(71);
  for (const auto& [tokens, outputs, inputs] :
       {std::tuple<int64_t, int64_t, int64_t>(1, 1, 1), {3, 17, 9}, {9, 40, 250}, {20, 33, 64}}) {
    const auto x = Rounded(kBf16, numbers.Normal(tokens * inputs, 1.0f));
    const auto w = numbers.Normal(outputs * inputs, 0.3f);
    Device device(GetParam());
    const auto weight =
        device.PutWeight({.rows = outputs, .columns = inputs, .dtype = DType::kFloat8E4M3},
                         device.Put(kF32, {outputs, inputs}, w));
    EXPECT_EQ(weight->dtype(), DType::kFloat8E4M3);
    const TensorView out = device.Output(kF32, {tokens, outputs});
    device.ops().MatMul(device.context(), out, device.Put(kBf16, {tokens, inputs}, x), *weight, {});
    const auto got = device.Get(out);
    for (int64_t n = 0; n < outputs; ++n) {
      const auto kept = Kept(w, n * inputs, (n + 1) * inputs);
      for (int64_t t = 0; t < tokens; ++t) {
        double sum = 0;
        for (int64_t k = 0; k < inputs; ++k) sum += double{x[t * inputs + k]} * kept[k];
        ASSERT_NEAR(got[t * outputs + n], sum, 1e-4) << n << " " << t;
        // And float8 is near what it stands for: 1/16 of each, random signs.
        double exact = 0;
        for (int64_t k = 0; k < inputs; ++k) exact += double{x[t * inputs + k]} * w[n * inputs + k];
        ASSERT_NEAR(sum, exact, 0.06 * std::sqrt(static_cast<double>(inputs)) + 0.02);
      }
    }
  }
}

TEST_P(Float8ProductTest, RanksAddUpToTheSameBits) {
  Numbers numbers(72);
  const int64_t tokens = 5, outputs = 21, inputs = 88;
  const auto x = numbers.Normal(tokens * inputs, 1.0f);
  const auto w = numbers.Normal(outputs * inputs, 1.0f);
  Device device(GetParam());
  const auto part_of = [&](int rank, int tp) {
    const int64_t columns = inputs / tp;
    const auto weight =
        device.PutWeight({.rows = outputs,
                          .columns = columns,
                          .dtype = DType::kFloat8E4M3,
                          .column_begin = rank * columns,
                          .column_total = inputs},
                         device.Put(kF32, {outputs, inputs}, w).Columns(rank * columns, columns));
    const TensorView out = device.Output(kF32, {tokens, outputs});
    device.ops().MatMulPartial(
        device.context(), out,
        device.Put(kBf16, {tokens, inputs}, x).Columns(rank * columns, columns), *weight);
    return device.Get(out);
  };
  const auto whole = part_of(0, 1);
  for (const int tp : {2, 4, 8}) {
    std::vector<std::vector<float>> parts;
    for (int rank = 0; rank < tp; ++rank) parts.push_back(part_of(rank, tp));
    for (int step = 1; step < tp; step *= 2) {
      for (int r = 0; r < tp; r += 2 * step) {
        for (size_t i = 0; i < whole.size(); ++i) parts[r][i] += parts[r + step][i];
      }
    }
    ExpectSameBits(parts[0], whole, "tp " + std::to_string(tp));
  }
}

}  // namespace
}  // namespace tessera::float8_test
