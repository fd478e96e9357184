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
      for (bool plus_one : {false, true}) {
        const auto x = Rounded(dtype, numbers.Normal(3 * n, 4.0f));
        const auto weight = Rounded(dtype, numbers.Normal(n));
        const auto run = [&](const Backend& backend) {
          Device device(backend);
          const TensorView out = device.Output(dtype, {3, n});
          device.ops().RmsNorm(
              device.context(), out, device.Put(dtype, {3, n}, x),
              {.weight = device.Put(dtype, {n}, weight), .eps = kEps, .plus_one = plus_one});
          return device.Get(out);
        };
        const auto got = run(GetParam());
        ExpectSameBits(got, run(Plain()), "plain");
        for (int64_t i = 0; i < 3 * n; ++i) {
          const double factor = weight[i % n] + (plus_one ? 1.0 : 0.0);
          const double want = x[i] / RootMeanSquare(&x[i / n * n], n) * factor;
          ASSERT_NEAR(got[i], want, Tolerance(dtype, want, 1e-6 + std::fabs(want) * 1e-6)) << i;
        }
      }
    }
  }
}

TEST_P(RowsTest, LayerNorm) {
  Numbers numbers(49);
  for (DType dtype : kTypes) {
    for (int64_t n : kWidths) {
      const auto x = Rounded(dtype, numbers.Normal(3 * n, 4.0f));
      const auto weight = Rounded(dtype, numbers.Normal(n));
      const auto bias = Rounded(dtype, numbers.Normal(n));
      // On its own, and behind the sum of two streams.
      const auto run = [&](const Backend& backend, bool added) {
        Device device(backend);
        const TensorView out = device.Output(dtype, {3, n});
        const NormSpec norm{.weight = device.Put(dtype, {n}, weight),
                            .bias = device.Put(dtype, {n}, bias),
                            .eps = kEps};
        if (added) {
          const std::vector<float> zeros(static_cast<size_t>(3 * n));
          device.ops().AddResidualNorm(device.context(), out, device.Put(dtype, {3, n}, x),
                                       device.Put(kF32, {3, n}, zeros), TensorView(), norm);
        } else {
          device.ops().RmsNorm(device.context(), out, device.Put(dtype, {3, n}, x), norm);
        }
        return device.Get(out);
      };
      const auto got = run(GetParam(), false);
      ExpectSameBits(got, run(Plain(), false), "plain");
      ExpectSameBits(run(GetParam(), true), got, "added");
      for (int64_t row = 0; row < 3; ++row) {
        double mean = 0;
        for (int64_t i = 0; i < n; ++i) mean += x[row * n + i] / static_cast<double>(n);
        double squares = 0;
        for (int64_t i = 0; i < n; ++i) squares += std::pow(x[row * n + i] - mean, 2);
        const double deviation = std::sqrt(squares / static_cast<double>(n) + kEps);
        for (int64_t i = 0; i < n; ++i) {
          const double want = (x[row * n + i] - mean) / deviation * weight[i] + bias[i];
          ASSERT_NEAR(got[row * n + i], want, Tolerance(dtype, want, 1e-4)) << row << " " << i;
        }
      }
    }
  }
}

// One call of AddResidualNorm on two rows and what must come of it, from `numbers`.
void CheckAddResidualNorm(const Backend& backend, DType dtype, int64_t n, bool with_bias,
                          bool norm_sum, Numbers& numbers) {
  const auto before = Rounded(dtype, numbers.Normal(2 * n));
  auto sum = numbers.Normal(2 * n);
  const auto bias = Rounded(dtype, numbers.Normal(n));
  const auto weight = Rounded(dtype, numbers.Normal(n));
  const auto sum_weight = Rounded(dtype, numbers.Normal(n));
  const auto run = [&](const Backend& on, std::vector<float>& stream) {
    Device device(on);
    const TensorView out = device.Output(dtype, {2, n});
    const TensorView residual = device.Put(dtype, {2, n}, before);
    device.ops().AddResidualNorm(
        device.context(), out, residual, device.Put(kF32, {2, n}, sum),
        with_bias ? device.Put(dtype, {n}, bias) : TensorView(),
        {.weight = device.Put(dtype, {n}, weight),
         .eps = kEps,
         .plus_one = norm_sum,
         .sum_weight = norm_sum ? device.Put(dtype, {n}, sum_weight) : TensorView()});
    stream = device.Get(residual, false);
    return device.Get(out);
  };
  std::vector<float> stream;
  std::vector<float> plain_stream;
  const auto got = run(backend, stream);
  ExpectSameBits(got, run(Plain(), plain_stream), "plain");
  ExpectSameBits(stream, plain_stream, "plain, residual");
  const double offset = norm_sum ? 1.0 : 0.0;
  for (int64_t i = 0; with_bias && i < 2 * n; ++i) sum[i] += bias[i % n];
  for (int64_t i = 0; i < 2 * n; ++i) {
    if (norm_sum) {
      const double normed =
          sum[i] / RootMeanSquare(&sum[i / n * n], n) * (sum_weight[i % n] + offset);
      const double want = before[i] + normed;
      ASSERT_NEAR(stream[i], want, Tolerance(dtype, want, 2e-6 + std::fabs(normed) * 1e-6)) << i;
    } else {
      ASSERT_EQ(stream[i], Rounded(dtype, before[i] + sum[i])) << i;
    }
    // The norm is of the residual as stored.
    const double want =
        stream[i] / RootMeanSquare(&stream[i / n * n], n) * (weight[i % n] + offset);
    ASSERT_NEAR(got[i], want, Tolerance(dtype, want, 1e-6 + std::fabs(want) * 1e-6)) << i;
  }
}

TEST_P(RowsTest, AddResidualNorm) {
  Numbers numbers(42);
  for (DType dtype : kTypes) {
    for (int64_t n : kWidths) {
      for (bool with_bias : {false, true}) {
        for (bool norm_sum : {false, true}) {
          CheckAddResidualNorm(GetParam(), dtype, n, with_bias, norm_sum, numbers);
        }
      }
    }
  }
}

TEST_P(RowsTest, SoftCap) {
  Numbers numbers(46);
  for (int64_t n : kWidths) {
    auto x = numbers.Normal(3 * n, 40.0f);
    x[0] = 1e-20f;
    const auto run = [&](const Backend& backend) {
      Device device(backend);
      const TensorView view = device.Put(kF32, {3, n}, x);
      device.ops().SoftCap(device.context(), view, 30.0f);
      return device.Get(view, false);
    };
    const auto got = run(GetParam());
    ExpectSameBits(got, run(Plain()), "plain");
    for (int64_t i = 0; i < 3 * n; ++i) {
      const double want = 30.0 * std::tanh(static_cast<double>(x[i]) / 30.0);
      ASSERT_NEAR(got[i], want, std::fabs(want) * 2e-6) << x[i];
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
                           device.Put(dtype, {6, 20}, table), 10, 2.5f);
    const auto got = device.Get(out);
    const int row[] = {2, -1, 5, -1, 0};
    for (int64_t i = 0; i < 100; ++i) {
      const int from = row[i / 20];
      EXPECT_EQ(got[i], from < 0 ? 0.0f : table[from * 20 + i % 20] * 2.5f) << i;
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
