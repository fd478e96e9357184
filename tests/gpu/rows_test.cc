// Norms, activations, lookups and copies against the CPU.

#include <cmath>

#include "tests/gpu/side.h"

namespace tessera::gpu {
namespace {

constexpr DType kTypes[] = {kF32, kBf16};
constexpr int64_t kWidths[] = {1, 2, 7, 16, 250, 2048, 4096, 5120, 16384};

class GpuRowsTest : public GpuTest {};

TEST_F(GpuRowsTest, Norms) {
  for (const DType dtype : kTypes) {
    for (const int64_t n : kWidths) {
      for (const int form : {0, 1, 2}) {  // plain, plus one, layer norm
        const auto x = Normal(3 * n, 4.0f);
        const auto weight = Normal(n);
        const auto bias = Normal(n);
        const auto run = [&](Side& side) {
          const TensorView out = side.Output(dtype, {3, n});
          side.ops().RmsNorm(side.context(), out, side.Put(dtype, {3, n}, x),
                             {.weight = side.Put(dtype, {n}, weight),
                              .bias = form == 2 ? side.Put(dtype, {n}, bias) : TensorView(),
                              .eps = 1e-5f,
                              .plus_one = form == 1});
          return side.Get(out);
        };
        ExpectNear(run(tested()), run(oracle()), dtype, 1e-5, 1e-5,
                   "norm " + std::to_string(form) + " of " + std::to_string(n));
      }
    }
  }
}

TEST_F(GpuRowsTest, AddResidualNorm) {
  for (const DType dtype : kTypes) {
    for (const int64_t n : kWidths) {
      for (const bool norm_sum : {false, true}) {
        const auto before = Normal(2 * n);
        const auto sum = Normal(2 * n);
        const auto bias = Normal(n);
        const auto weight = Normal(n);
        const auto run = [&](Side& side, std::vector<float>& stream) {
          const TensorView out = side.Output(dtype, {2, n});
          const TensorView residual = side.Put(dtype, {2, n}, before);
          side.ops().AddResidualNorm(
              side.context(), out, residual, side.Put(kF32, {2, n}, sum),
              n % 2 == 0 ? side.Put(dtype, {n}, bias) : TensorView(),
              {.weight = side.Put(dtype, {n}, weight),
               .eps = 1e-5f,
               .plus_one = norm_sum,
               .sum_weight = norm_sum ? side.Put(dtype, {n}, weight) : TensorView()});
          stream = side.Get(residual, false);
          return side.Get(out);
        };
        std::vector<float> stream;
        std::vector<float> wanted_stream;
        const auto got = run(tested(), stream);
        const auto want = run(oracle(), wanted_stream);
        const std::string what = "width " + std::to_string(n);
        ExpectNear(stream, wanted_stream, dtype, 1e-5, 1e-5, what + ", residual");
        ExpectNear(got, want, dtype, 1e-4, dtype == kBf16 ? 0x1p-7 : 1e-5, what);
      }
    }
  }
}

TEST_F(GpuRowsTest, ElementWise) {
  for (const DType dtype : kTypes) {
    for (const int64_t n : kWidths) {
      auto x = Normal(2 * 2 * n, 5.0f);
      x[0] = 100.0f;
      x[1] = -100.0f;
      for (const Activation act : {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu}) {
        const auto run = [&](Side& side) {
          const TensorView out = side.Output(dtype, {2, n});
          side.ops().GatedActivation(side.context(), out, side.Put(dtype, {2, 2 * n}, x), act);
          return side.Get(out);
        };
        ExpectNear(run(tested()), run(oracle()), dtype, 1e-5, 1e-5,
                   "activation " + std::to_string(static_cast<int>(act)));
      }
      const auto cap = [&](Side& side) {
        const TensorView view = side.Put(kF32, {2, 2 * n}, x);
        side.ops().SoftCap(side.context(), view, 30.0f);
        return side.Get(view, false);
      };
      ExpectSameBits(cap(tested()), cap(oracle()), "soft cap");
    }
  }
}

TEST_F(GpuRowsTest, Lookups) {
  for (const DType dtype : kTypes) {
    for (const int64_t n : {5, 24, 4096}) {
      const auto table = Normal(6 * n);
      const auto embed = [&](Side& side) {
        const TensorView out = side.Output(kF32, {5, n});
        side.ops().Embedding(side.context(), out, side.PutInts({5}, {12, 9, 15, 16, 10}),
                             side.Put(dtype, {6, n}, table), 10, 2.5f);
        return side.Get(out);
      };
      ExpectSameBits(embed(tested()), embed(oracle()), "embedding");
      const auto gather = [&](Side& side) {
        const TensorView out = side.Output(dtype, {3, n - 3});
        side.ops().GatherRows(side.context(), out, side.Put(dtype, {6, n}, table).Columns(2, n - 3),
                              side.PutInts({3}, {5, 0, 5}));
        return side.Get(out);
      };
      ExpectSameBits(gather(tested()), gather(oracle()), "gather");
    }
  }
}

TEST_F(GpuRowsTest, MemoryIsZeroedAlignedAndRefused) {
  Ops& ops = tested().ops();
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{65}, size_t{20} << 20}) {
    const auto buffer = ops.Allocate(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    std::vector<char> data(bytes, 1);
    ops.CopyToHost({}, data.data(), buffer->data(), bytes);
    for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(data[i], 0) << i;
  }
  for (const size_t bytes : {size_t{1} << 60, SIZE_MAX}) {
    EXPECT_EQ(ops.Allocate(bytes).status().code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_TRUE(ops.Synchronize({}).ok()) << "a refused allocation is no device error";
}

// Uploads larger than the staging memory, and the order of what is queued.
TEST_F(GpuRowsTest, LargeCopiesArriveWhole) {
  Ops& ops = tested().ops();
  const size_t n = (size_t{37} << 20) + 13;
  std::vector<uint8_t> sent(n);
  for (size_t i = 0; i < n; ++i) sent[i] = static_cast<uint8_t>(i * 2654435761u >> 24);
  const auto buffer = ops.Allocate(n);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  ops.CopyToDevice({}, buffer->data(), sent.data(), n);
  std::vector<uint8_t> got(n);
  ops.CopyToHost({}, got.data(), buffer->data(), n);
  EXPECT_TRUE(got == sent);
}

}  // namespace
}  // namespace tessera::gpu
