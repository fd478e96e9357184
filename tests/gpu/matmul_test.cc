// Products against the CPU, and the promise that neither the number of tokens nor the number of
// ranks shows in the bits.

#include <cmath>

#include "tests/gpu/side.h"

namespace tessera::gpu {
namespace {

struct Product {
  int64_t tokens, outputs, inputs;
  DType activation, weight, out;
  bool bias;
};

const Product kProducts[] = {
    {1, 1, 1, kF32, kF32, kF32, false},
    {2, 17, 9, kF32, kBf16, kF32, true},
    {8, 64, 127, kBf16, kF32, kBf16, false},
    {33, 100, 77, kF32, kF32, kF32, true},
    {1, 16, 8, kBf16, kBf16, kBf16, true},
    {3, 20, 24, kBf16, kBf16, kF32, true},
    {9, 65, 128, kBf16, kBf16, kBf16, true},
    {16, 31, 250, kBf16, kBf16, kF32, false},
    {17, 33, 70, kBf16, kBf16, kF32, false},
    {1, 4096, 1024, kBf16, kBf16, kBf16, true},
    {5, 9000, 512, kBf16, kBf16, kF32, false},
    {16, 8448, 1536, kBf16, kBf16, kBf16, false},
    {64, 128, 512, kBf16, kBf16, kF32, true},
    {65, 129, 1024, kBf16, kBf16, kBf16, true},
    {200, 1000, 2048, kBf16, kBf16, kBf16, false},
    {1, 1, 1, kF32, kFp8, kF32, false},
    {5, 19, 77, kF32, kFp8, kF32, true},
    {1, 16, 16, kBf16, kFp8, kBf16, true},
    {2, 17, 9, kBf16, kFp8, kF32, true},
    {9, 65, 250, kBf16, kFp8, kF32, false},
    {16, 8448, 512, kBf16, kFp8, kBf16, true},
    {3, 4096, 1024, kBf16, kFp8, kF32, false},
    {70, 144, 1024, kBf16, kFp8, kF32, true},
};

class GpuMatMulTest : public GpuTest {};

TEST_F(GpuMatMulTest, MatchesTheCpu) {
  for (const Product& c : kProducts) {
    for (const bool deterministic : {true, false}) {
      const auto x = Normal(c.tokens * c.inputs);
      const auto w = Normal(c.outputs * c.inputs);
      const auto bias = Normal(c.outputs);
      const auto run = [&](Side& side) {
        side.context().deterministic = deterministic;
        const auto weight =
            side.PutWeight({.rows = c.outputs, .columns = c.inputs, .dtype = c.weight}, w);
        const TensorView out = side.Output(c.out, {c.tokens, c.outputs});
        side.ops().MatMul(side.context(), out, side.Put(c.activation, {c.tokens, c.inputs}, x),
                          *weight,
                          c.bias ? side.Put(c.activation, {c.outputs}, bias) : TensorView());
        return side.Get(out);
      };
      // Sums of n products of normal numbers are of size sqrt(n); tensor cores drop bits below
      // 2^-22 or so of the largest term.
      double noise = 4e-6 * std::sqrt(static_cast<double>(c.inputs)) * 4;
      // Many tokens are made float8 themselves: an error of up to 1/16 of each.
      if (!deterministic && c.weight == kFp8 && c.tokens > 16) noise *= 8000;
      ExpectNear(run(tested()), run(oracle()), c.out, noise, 0,
                 std::to_string(c.tokens) + " x " + std::to_string(c.outputs) + " x " +
                     std::to_string(c.inputs) + (deterministic ? "" : ", free order"));
    }
  }
}

TEST_F(GpuMatMulTest, TokensDoNotShowInTheBits) {
  if (TestedIsCpu()) GTEST_SKIP() << "tests/kernels/cpu has it";
  for (const auto& [inputs, dtype] : {std::pair<int64_t, DType>(200, kBf16),
                                      {512, kBf16},
                                      {4096, kBf16},
                                      {200, kFp8},
                                      {512, kFp8}}) {
    const int64_t outputs = 272;
    const int64_t tokens = 150;
    const auto x = Normal(tokens * inputs);
    Side& side = tested();
    side.context().deterministic = true;
    const auto weight = side.PutWeight({.rows = outputs, .columns = inputs, .dtype = dtype},
                                       Normal(outputs * inputs));
    const TensorView all_x = side.Put(kBf16, {tokens, inputs}, x);
    const TensorView all = side.Output(kF32, {tokens, outputs});
    side.ops().MatMul(side.context(), all, all_x, *weight, {});
    const auto want = side.Get(all);
    for (const int64_t n : {1, 2, 8, 9, 16, 17, 64, 65}) {
      const TensorView part = side.Output(kF32, {n, outputs});
      const int64_t begin = tokens - n;
      side.ops().MatMul(side.context(), part, all_x.Rows(begin, n), *weight, {});
      ExpectSameBits(side.Get(part), {want.begin() + begin * outputs, want.end()},
                     std::to_string(n) + " tokens of " + std::to_string(inputs));
    }
  }
}

// The parts of tp ranks, summed in the tree, are the whole product bit for bit.
TEST_F(GpuMatMulTest, RanksDoNotShowInTheBits) {
  for (const auto& [inputs, dtype] :
       {std::pair<int64_t, DType>(40, kBf16), {1024, kBf16}, {40, kFp8}, {1024, kFp8}}) {
    for (const int64_t tokens : {1, 5, 70}) {
      const int64_t outputs = 48;
      const auto x = Normal(tokens * inputs);
      const auto w = Normal(outputs * inputs);
      Side& side = tested();
      side.context().deterministic = true;
      const auto part_of = [&](int rank, int tp) {
        const int64_t columns = inputs / tp;
        std::vector<float> shard;
        for (int64_t row = 0; row < outputs; ++row) {
          const auto from = w.begin() + row * inputs + rank * columns;
          shard.insert(shard.end(), from, from + columns);
        }
        const auto weight = side.PutWeight({.rows = outputs,
                                            .columns = columns,
                                            .dtype = dtype,
                                            .column_begin = rank * columns,
                                            .column_total = inputs},
                                           shard);
        const TensorView out = side.Output(kF32, {tokens, outputs});
        side.ops().MatMulPartial(
            side.context(), out,
            side.Put(kBf16, {tokens, inputs}, x).Columns(rank * columns, columns), *weight);
        return side.Get(out);
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
        ExpectSameBits(parts[0], whole,
                       "tp " + std::to_string(tp) + ", " + std::to_string(tokens) + " tokens");
      }
    }
  }
}

// Made-up weights are the same everywhere: products with the unit matrix show them.
TEST_F(GpuMatMulTest, MadeUpWeightsAreTheCpus) {
  for (const DType dtype : {kF32, kBf16, kFp8}) {
    for (const int64_t total : {int64_t{0}, int64_t{2 * 88}}) {
      const int64_t rows = 37, columns = 88;
      std::vector<float> unit(columns * columns);
      for (int64_t i = 0; i < columns; ++i) unit[i * (columns + 1)] = 1.0f;
      const auto run = [&](Side& side) {
        auto weight = side.ops().NewWeight(
            {.rows = rows, .columns = columns, .dtype = dtype, .column_total = total});
        TESSERA_CHECK(weight.ok()) << weight.status();
        side.ops().FillRows(**weight, 0, 20,
                            {.seed = 5, .first = 7, .row_step = 300, .spread = 0.1f});
        side.ops().FillRows(**weight, 20, 17,
                            {.seed = 6, .row_step = 1, .column_step = 40, .center = 1.0f});
        const TensorView out = side.Output(kF32, {columns, rows});
        const TensorView x = side.Put(kF32, {columns, columns}, unit);
        if (total == 0) {
          side.ops().MatMul(side.context(), out, x, **weight, {});
        } else {
          side.ops().MatMulPartial(side.context(), out, x, **weight);
        }
        auto values = side.Get(out);
        const TensorView plain = side.Output(dtype == kFp8 ? kBf16 : dtype, {5, 9});
        side.ops().Fill(side.context(), plain, {.seed = 3, .row_step = 9, .spread = 2.0f});
        for (const float value : side.Get(plain)) values.push_back(value);
        return values;
      };
      ExpectSameBits(run(tested()), run(oracle()), DTypeName(dtype));
    }
  }
}

TEST_F(GpuMatMulTest, HeadByHead) {
  const int64_t heads = 5, n = 24, k = 40, tokens = 19;
  const auto x = Normal(tokens * heads * 48);
  const auto w = Normal(heads * n * k);
  const auto before = Normal(tokens * heads * 30);
  const auto run = [&](Side& side) {
    const auto weight = side.PutWeight({.rows = heads * n, .columns = k}, w);
    const TensorView out = side.Put(kBf16, {tokens, heads * 30}, before);
    side.ops().MatMulHeads(side.context(), out, side.Put(kBf16, {tokens, heads * 48}, x), *weight,
                           heads);
    return side.Get(out, false);
  };
  ExpectNear(run(tested()), run(oracle()), kBf16, 1e-4, 0, "heads");
}

TEST_F(GpuMatMulTest, RefusesWhatItCannotPack) {
  const auto code = [&](WeightShape shape) {
    return tested().ops().NewWeight(shape).status().code();
  };
  EXPECT_EQ(code({.rows = 0, .columns = 8}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.rows = 8, .columns = 8, .dtype = DType::kFloat16}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.rows = 8, .columns = 24, .column_begin = 0, .column_total = 64}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.rows = int64_t{1} << 30, .columns = int64_t{1} << 30}),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tessera::gpu
