// MatMul and MatMulPartial against double precision, over odd sizes, dtypes, bias, strided views,
// several passes of the workspace, and row-wise packing.

#include "tests/kernels/op_fixture.h"

namespace tessera {
namespace {

struct Case {
  int64_t rows, outputs, inputs;  // T, N, K
  DType activation, weight, out;
  bool bias;
};

const Case kCases[] = {
    {1, 1, 1, kF32, kF32, kF32, false},       {1, 16, 8, kBf16, kBf16, kBf16, true},
    {2, 17, 9, kF32, kBf16, kF32, true},      {3, 20, 24, kBf16, kBf16, kF32, true},
    {7, 63, 65, kF32, kF32, kF32, true},      {8, 64, 127, kBf16, kF32, kBf16, false},
    {9, 65, 128, kBf16, kBf16, kBf16, true},  {33, 100, 77, kF32, kBf16, kF32, false},
    {64, 31, 250, kBf16, kBf16, kF32, false}, {300, 48, 40, kF32, kF32, kF32, true},
};

class MatMulTest : public OpTest {};
INSTANTIATE_TEST_SUITE_P(All, MatMulTest, testing::ValuesIn(Backends()), BackendName);

// x . w^T in double, and the sum of magnitudes that bounds its float32 error.
struct Reference {
  double value = 0;
  double magnitude = 0;
};

Reference Dot(const std::vector<float>& x, const std::vector<float>& w, int64_t row, int64_t output,
              int64_t inputs) {
  Reference reference;
  for (int64_t k = 0; k < inputs; ++k) {
    const double product = static_cast<double>(x[row * inputs + k]) * w[output * inputs + k];
    reference.value += product;
    reference.magnitude += std::fabs(product);
  }
  return reference;
}

TEST_P(MatMulTest, MatchesDoublePrecision) {
  Numbers numbers(1);
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c.rows << " x " << c.outputs << " x " << c.inputs);
    // A workspace of five rows: several passes where there are more.
    Device device(GetParam(), static_cast<size_t>(5 * c.inputs) * 4);
    const auto x = Rounded(c.activation, numbers.Normal(c.rows * c.inputs));
    const auto w = Rounded(c.weight, numbers.Normal(c.outputs * c.inputs));
    const auto bias = Rounded(c.activation, numbers.Normal(c.outputs));
    const auto weight =
        device.PutWeight({.rows = c.outputs, .columns = c.inputs, .dtype = c.weight},
                         device.Put(c.weight, {c.outputs, c.inputs}, w));
    const TensorView out = device.Output(c.out, {c.rows, c.outputs});
    device.ops().MatMul(device.context(), out, device.Put(c.activation, {c.rows, c.inputs}, x),
                        *weight,
                        c.bias ? device.Put(c.activation, {c.outputs}, bias) : TensorView());
    const auto got = device.Get(out);
    for (int64_t i = 0; i < c.rows * c.outputs; ++i) {
      const Reference dot = Dot(x, w, i / c.outputs, i % c.outputs, c.inputs);
      const double want = dot.value + (c.bias ? bias[i % c.outputs] : 0.0f);
      ASSERT_NEAR(got[i], want, Tolerance(c.out, want, dot.magnitude * 1e-6 + 1e-7)) << i;
    }
  }
}

TEST_P(MatMulTest, ReadsAndWritesColumnsOfWiderMatrices) {
  Numbers numbers(2);
  Device device(GetParam());
  const auto x = numbers.Normal(5 * 40);
  const auto w = numbers.Normal(18 * 24);
  const auto weight =
      device.PutWeight({.rows = 18, .columns = 24, .dtype = kF32}, device.Put(kF32, {18, 24}, w));
  const TensorView wide = device.Output(kF32, {5, 50});
  device.ops().MatMul(device.context(), wide.Columns(7, 18),
                      device.Put(kF32, {5, 40}, x).Columns(3, 24), *weight, TensorView());
  const auto got = device.Get(wide);
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t c = 0; c < 50; ++c) {
      if (c < 7 || c >= 25) {
        ASSERT_TRUE(std::isnan(got[r * 50 + c])) << "wrote column " << c;
        continue;
      }
      double want = 0;
      for (int64_t k = 0; k < 24; ++k) {
        want += static_cast<double>(x[r * 40 + 3 + k]) * w[(c - 7) * 24 + k];
      }
      ASSERT_NEAR(got[r * 50 + c], want, 1e-4) << r << " " << c;
    }
  }
}

// Packing in pieces, from strided rows of any stored type, gives what packing at once gives.
TEST_P(MatMulTest, PacksRowRangesFromEveryStoredType) {
  Numbers numbers(3);
  Device device(GetParam());
  constexpr int64_t kOutputs = 45;
  constexpr int64_t kInputs = 150;
  // Exact in float16 and bfloat16.
  std::vector<float> w(kOutputs * kInputs);
  for (float& value : w) value = static_cast<float>(numbers.Below(33) - 16) * 0.125f;
  std::vector<uint16_t> half(w.size());
  for (size_t i = 0; i < w.size(); ++i) {
    int exponent = 0;
    const float fraction = std::frexp(std::fabs(w[i]), &exponent);  // in [1/2, 1)
    const int mantissa = static_cast<int>(fraction * 2048) & 0x3ff;
    half[i] = w[i] == 0 ? 0 : static_cast<uint16_t>((exponent + 14) << 10 | mantissa);
    if (w[i] < 0) half[i] |= 0x8000;
  }
  const auto x = device.Put(kF32, {4, kInputs}, numbers.Normal(4 * kInputs));
  for (DType dtype : {kF32, kBf16}) {
    const WeightShape shape{.rows = kOutputs, .columns = kInputs, .dtype = dtype};
    const auto at_once = device.PutWeight(shape, device.Put(kF32, {kOutputs, kInputs}, w));
    auto in_pieces = *device.ops().NewWeight(shape);
    const TensorView halves(half.data(), DType::kFloat16, {kOutputs, kInputs});
    device.ops().PackRows(*in_pieces, 30, halves.Rows(30, 15));
    device.ops().PackRows(*in_pieces, 0, device.Put(kBf16, {kOutputs, kInputs}, w).Rows(0, 13));
    device.ops().PackRows(*in_pieces, 13, halves.Rows(13, 17));
    const TensorView a = device.Output(kF32, {4, kOutputs});
    const TensorView b = device.Output(kF32, {4, kOutputs});
    device.ops().MatMul(device.context(), a, x, *at_once, TensorView());
    device.ops().MatMul(device.context(), b, x, *in_pieces, TensorView());
    ExpectSameBits(device.Get(a), device.Get(b), DTypeName(dtype));
  }
}

TEST_P(MatMulTest, RefusesWhatItCannotPack) {
  Device device(GetParam());
  const auto code = [&](WeightShape shape) {
    return device.ops().NewWeight(shape).status().code();
  };
  EXPECT_EQ(code({.rows = 0, .columns = 8}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.rows = 8, .columns = -1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.rows = 8, .columns = 8, .dtype = DType::kFloat16}),
            absl::StatusCode::kInvalidArgument);
  // Three of eight slices, and two that are no subtree.
  EXPECT_EQ(code({.rows = 8, .columns = 24, .column_begin = 0, .column_total = 64}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.rows = 8, .columns = 16, .column_begin = 8, .column_total = 64}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.rows = 8, .columns = 10, .column_begin = 0, .column_total = 64}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.rows = int64_t{1} << 30, .columns = int64_t{1} << 30}),
            absl::StatusCode::kResourceExhausted);
}

using MatMulDeathTest = MatMulTest;
INSTANTIATE_TEST_SUITE_P(Plain, MatMulDeathTest, testing::Values(Backends()[0]), BackendName);

TEST_P(MatMulDeathTest, WrongShapesEndTheProcess) {
  Device device(GetParam());
  const auto weight = device.PutWeight({.rows = 8, .columns = 8, .dtype = kF32},
                                       device.Put(kF32, {8, 8}, std::vector<float>(64)));
  const TensorView x = device.Put(kF32, {2, 8}, std::vector<float>(16));
  EXPECT_DEATH(device.ops().MatMul(device.context(), device.Output(kF32, {2, 9}), x, *weight, {}),
               "check failed");
  EXPECT_DEATH(
      device.ops().MatMulPartial(device.context(), device.Output(kF32, {2, 8}), x, *weight),
      "row-parallel");
}

}  // namespace
}  // namespace tessera
