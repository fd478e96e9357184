// Norms, activations, lookups and copies: against double precision, equal bits on every backend.

#include "tests/kernels/op_fixture.h"

namespace tessera {
namespace {

constexpr DType kTypes[] = {kF32, kBf16};
constexpr int64_t kWidths[] = {1, 2, 15, 16, 17, 20, 250, 2048};
constexpr float kEps = 1e-5f;

class RowsTest : public OpTest {};
INSTANTIATE_TEST_SUITE_P(All, RowsTest, testing::ValuesIn(Backends()), BackendName);

// The same call on the plain backend, for bits.
Backend Plain() { return {"plain", cpu::Isa::kPlain, 1}; }

double RootMeanSquare(const float* x, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  return std::sqrt(squares / static_cast<double>(n) + kEps);
}

TEST_P(RowsTest, RmsNorm) {
  Numbers numbers(41);
  for (DType dtype : kTypes) {
    for (int64_t n : kWidths) {
      const auto x = Rounded(dtype, numbers.Normal(3 * n, 4.0f));
      const auto weight = Rounded(dtype, numbers.Normal(n));
      const auto run = [&](const Backend& backend) {
        Device device(backend);
        const TensorView out = device.Output(dtype, {3, n});
        device.ops().RmsNorm(device.context(), out, device.Put(dtype, {3, n}, x),
                             device.Put(dtype, {n}, weight), kEps);
        return device.Get(out);
      };
      const auto got = run(GetParam());
      ExpectSameBits(got, run(Plain()), "plain");
      for (int64_t i = 0; i < 3 * n; ++i) {
        const double want = x[i] / RootMeanSquare(&x[i / n * n], n) * weight[i % n];
        ASSERT_NEAR(got[i], want, Tolerance(dtype, want, 1e-6 + std::fabs(want) * 1e-6)) << i;
      }
    }
  }
}

TEST_P(RowsTest, AddResidualNorm) {
  Numbers numbers(42);
  for (DType dtype : kTypes) {
    for (int64_t n : kWidths) {
      for (bool with_bias : {false, true}) {
        const auto before = Rounded(dtype, numbers.Normal(2 * n));
        const auto sum = numbers.Normal(2 * n);
        const auto bias = Rounded(dtype, numbers.Normal(n));
        const auto weight = Rounded(dtype, numbers.Normal(n));
        Device device(GetParam());
        const TensorView out = device.Output(dtype, {2, n});
        const TensorView residual = device.Put(dtype, {2, n}, before);
        device.ops().AddResidualNorm(device.context(), out, residual, device.Put(kF32, {2, n}, sum),
                                     with_bias ? device.Put(dtype, {n}, bias) : TensorView(),
                                     device.Put(dtype, {n}, weight), kEps);
        const auto got = device.Get(out);
        const auto stream = device.Get(residual, false);
        for (int64_t i = 0; i < 2 * n; ++i) {
          const float addend = with_bias ? sum[i] + bias[i % n] : sum[i];
          ASSERT_EQ(stream[i], Rounded(dtype, before[i] + addend)) << i;
          // The norm is of the residual as stored.
          const double want = stream[i] / RootMeanSquare(&stream[i / n * n], n) * weight[i % n];
          ASSERT_NEAR(got[i], want, Tolerance(dtype, want, 1e-6 + std::fabs(want) * 1e-6)) << i;
        }
      }
    }
  }
}

double Expected(Activation act, double x) {
  switch (act) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  }
  return 0;
}

TEST_P(RowsTest, GatedActivation) {
  Numbers numbers(43);
  for (Activation act : {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu}) {
    for (DType dtype : kTypes) {
      for (int64_t n : kWidths) {
        auto gate_up = numbers.Normal(3 * 2 * n, 3.0f);
        if (n > 10) {
          gate_up[0] = 200.0f;  // far tails: 200 and 0
          gate_up[1] = -200.0f;
          gate_up[2] = 1e-20f;
          gate_up[3] = 0.0f;
        }
        gate_up = Rounded(dtype, gate_up);
        const auto run = [&](const Backend& backend) {
          Device device(backend);
          const TensorView out = device.Output(dtype, {3, n});
          device.ops().GatedActivation(device.context(), out,
                                       device.Put(dtype, {3, 2 * n}, gate_up), act);
          return device.Get(out);
        };
        const auto got = run(GetParam());
        ExpectSameBits(got, run(Plain()), "plain");
        for (int64_t i = 0; i < 3 * n; ++i) {
          const double up = gate_up[i / n * 2 * n + n + i % n];
          const double want = Expected(act, gate_up[i / n * 2 * n + i % n]) * up;
          ASSERT_NEAR(got[i], want, Tolerance(dtype, want, std::fabs(up) * 3e-6 + 1e-30))
              << "activation " << static_cast<int>(act) << " of " << gate_up[i / n * 2 * n + i % n];
        }
      }
    }
  }
}

TEST_P(RowsTest, EmbeddingIsZeroOutsideTheShard) {
  Numbers numbers(44);
  for (DType dtype : kTypes) {
    const auto table = Rounded(dtype, numbers.Normal(6 * 20));
    Device device(GetParam());
    const TensorView out = device.Output(kF32, {5, 20});
    // Rows 10 .. 15 of the vocabulary.
    device.ops().Embedding(device.context(), out, device.PutInts({5}, {12, 9, 15, 16, 10}),
                           device.Put(dtype, {6, 20}, table), 10);
    const auto got = device.Get(out);
    const int row[] = {2, -1, 5, -1, 0};
    for (int64_t i = 0; i < 100; ++i) {
      const int from = row[i / 20];
      EXPECT_EQ(got[i], from < 0 ? 0.0f : table[from * 20 + i % 20]) << i;
    }
  }
}

TEST_P(RowsTest, GatherRows) {
  Numbers numbers(45);
  for (DType dtype : kTypes) {
    const auto x = Rounded(dtype, numbers.Normal(4 * 9));
    Device device(GetParam());
    const TensorView out = device.Output(dtype, {3, 5});
    device.ops().GatherRows(device.context(), out, device.Put(dtype, {4, 9}, x).Columns(2, 5),
                            device.PutInts({3}, {3, 0, 3}));
    const auto got = device.Get(out);
    const int row[] = {3, 0, 3};
    for (int64_t i = 0; i < 15; ++i) EXPECT_EQ(got[i], x[row[i / 5] * 9 + 2 + i % 5]) << i;
  }
}

TEST_P(RowsTest, MemoryIsZeroedAlignedAndRefusedWhenThereIsNone) {
  Device device(GetParam());
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{65}, size_t{100} << 10, size_t{20} << 20}) {
    const auto buffer = device.ops().Allocate(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u) << bytes;
    const char* data = static_cast<const char*>(buffer->data());
    for (size_t i = 0; i < bytes; i += 61) ASSERT_EQ(data[i], 0) << i;
  }
  for (size_t bytes : {size_t{1} << 60, SIZE_MAX}) {
    EXPECT_EQ(device.ops().Allocate(bytes).status().code(), absl::StatusCode::kResourceExhausted);
  }
}

}  // namespace
}  // namespace tessera
