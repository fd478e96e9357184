// ExpertsPartial: against double precision, and the promise that batch, passes, threads,
// instruction set and the number of ranks do not show in the bits.

#include <algorithm>
#include <numeric>

#include "tests/kernels/op_fixture.h"

namespace tessera::experts_test {
namespace {

struct Sizes {
  int64_t experts = 8, per_token = 2, hidden = 20, inner = 12;
  int64_t shared = 0;  // columns of the shared expert
  bool gate = false;   // of the shared expert
  DType dtype = kF32;
};

const Sizes kSizes[] = {
    {},
    {.experts = 11, .per_token = 3, .hidden = 33, .inner = 17},
    {.experts = 3, .per_token = 1, .hidden = 7, .inner = 5},
    {.experts = 9, .per_token = 4, .hidden = 70, .inner = 24, .shared = 16, .dtype = kBf16},
    {.experts = 16, .per_token = 16, .hidden = 16, .inner = 16, .shared = 40, .gate = true},
    {.per_token = 2, .hidden = 130, .inner = 9, .shared = 8, .gate = true, .dtype = kBf16},
};

// A network of random numbers, the same on every device that it is put on.
struct Network {
  Network(const Sizes& sizes_in, int64_t tokens_in, Numbers& numbers)
      : sizes(sizes_in), tokens(tokens_in) {
    const auto values = [&](int64_t n, float scale) {
      return Rounded(sizes.dtype, numbers.Normal(n, scale));
    };
    const float narrow = 1.0f / std::sqrt(static_cast<float>(sizes.hidden));
    const float wide = 1.0f / std::sqrt(static_cast<float>(sizes.inner));
    x = values(tokens * sizes.hidden, 1.0f);
    for (int64_t e = 0; e < sizes.experts; ++e) {
      gate_up.push_back(values(2 * sizes.inner * sizes.hidden, narrow));
      down.push_back(values(sizes.hidden * sizes.inner, wide));
    }
    activated = values(tokens * sizes.shared, 1.0f);
    shared_down = values(sizes.hidden * sizes.shared, 0.3f);
    gate = numbers.Normal(tokens);
    weights = numbers.Normal(tokens * sizes.per_token);
    std::vector<int32_t> all(static_cast<size_t>(sizes.experts));
    std::iota(all.begin(), all.end(), 0);
    for (int64_t t = 0; t < tokens; ++t) {
      std::shuffle(all.begin(), all.end(), numbers.engine());
      ids.insert(ids.end(), all.begin(), all.begin() + sizes.per_token);
    }
  }

  const Sizes sizes;
  const int64_t tokens;
  std::vector<float> x, activated, shared_down, gate, weights;
  std::vector<std::vector<float>> gate_up, down;
  std::vector<int32_t> ids;
};

struct Outcome {
  std::vector<float> out;  // [tokens, C]
  int64_t load = 0;
};

// Tokens [begin, begin + count) on rank `rank` of `tp`.
Outcome RunExperts(const Backend& backend, const Network& network, int64_t begin, int64_t count,
                   int rank = 0, int tp = 1) {
  const Sizes& sizes = network.sizes;
  Device device(backend, size_t{32} << 20);
  const int slices = kReduceSlices / tp;
  ExpertShare share{.num_experts = sizes.experts,
                    .first_slice = rank * slices,
                    .num_slices = slices,
                    .activation = Activation::kSilu};
  std::vector<std::unique_ptr<Weight>> owned;
  const auto put = [&](const WeightShape& shape, TensorView rows) {
    owned.push_back(device.PutWeight(shape, rows));
    return owned.back().get();
  };
  const int64_t first = SliceBegin(sizes.experts, share.first_slice);
  for (int64_t e = first; e < SliceBegin(sizes.experts, share.first_slice + slices); ++e) {
    const WeightShape up{.rows = 2 * sizes.inner, .columns = sizes.hidden, .dtype = sizes.dtype};
    const WeightShape down{.rows = sizes.hidden, .columns = sizes.inner, .dtype = sizes.dtype};
    share.experts.push_back(
        {.gate_up = put(up, device.Put(sizes.dtype, {up.rows, up.columns}, network.gate_up[e])),
         .down = put(down, device.Put(sizes.dtype, {down.rows, down.columns}, network.down[e]))});
  }
  const auto rows = [&](TensorView view) { return view.Rows(begin, count); };
  SharedExpert shared;
  if (sizes.shared > 0) {
    const int64_t columns = sizes.shared / tp;
    const TensorView down =
        device.Put(sizes.dtype, {sizes.hidden, sizes.shared}, network.shared_down);
    shared.down = put({.rows = sizes.hidden,
                       .columns = columns,
                       .dtype = sizes.dtype,
                       .column_begin = rank * columns,
                       .column_total = sizes.shared},
                      down.Columns(rank * columns, columns));
    shared.activated =
        rows(device.Put(sizes.dtype, {network.tokens, sizes.shared}, network.activated))
            .Columns(rank * columns, columns);
    if (sizes.gate) shared.gate = rows(device.Put(kF32, {network.tokens, 1}, network.gate));
  }
  const Routing routing{
      .ids = rows(device.PutInts({network.tokens, sizes.per_token}, network.ids)),
      .weights = rows(device.Put(kF32, {network.tokens, sizes.per_token}, network.weights))};
  Outcome outcome;
  outcome.load = 100;
  const TensorView load(&outcome.load, DType::kInt64, {1});
  const TensorView out = device.Output(kF32, {count, sizes.hidden});
  device.ops().ExpertsPartial(
      device.context(), out,
      rows(device.Put(sizes.dtype, {network.tokens, sizes.hidden}, network.x)), routing, share,
      shared, load);
  outcome.out = device.Get(out);
  outcome.load -= 100;
  return outcome;
}

// What token `token` gets, in double but for the roundings between the products.
std::vector<double> Expected(const Network& network, int64_t token) {
  const Sizes& sizes = network.sizes;
  std::vector<double> out(static_cast<size_t>(sizes.hidden));
  for (int64_t j = 0; j < sizes.per_token; ++j) {
    const int32_t expert = network.ids[token * sizes.per_token + j];
    const auto dot = [&](int64_t row) {
      double sum = 0;
      for (int64_t k = 0; k < sizes.hidden; ++k) {
        sum += static_cast<double>(network.x[token * sizes.hidden + k]) *
               network.gate_up[expert][row * sizes.hidden + k];
      }
      return static_cast<double>(Rounded(sizes.dtype, static_cast<float>(sum)));
    };
    for (int64_t i = 0; i < sizes.inner; ++i) {
      const double gate = dot(i);
      const double active = Rounded(
          sizes.dtype, static_cast<float>(gate / (1 + std::exp(-gate)) * dot(sizes.inner + i)));
      for (int64_t c = 0; c < sizes.hidden; ++c) {
        out[c] += network.weights[token * sizes.per_token + j] * active *
                  network.down[expert][c * sizes.inner + i];
      }
    }
  }
  const double factor = sizes.gate ? 1 / (1 + std::exp(-network.gate[token])) : 1.0;
  for (int64_t c = 0; c < sizes.hidden; ++c) {
    for (int64_t i = 0; i < sizes.shared; ++i) {
      out[c] += factor * network.activated[token * sizes.shared + i] *
                network.shared_down[c * sizes.shared + i];
    }
  }
  return out;
}

class ExpertsTest : public OpTest {};
INSTANTIATE_TEST_SUITE_P(All, ExpertsTest, testing::ValuesIn(Backends()), BackendName);

TEST_P(ExpertsTest, MatchesDoublePrecision) {
  Numbers numbers(61);
  for (const Sizes& sizes : kSizes) {
    for (int64_t tokens : {1, 6, 45}) {
      SCOPED_TRACE(testing::Message() << sizes.experts << " experts, " << tokens << " tokens");
      const Network network(sizes, tokens, numbers);
      const Outcome got = RunExperts(GetParam(), network, 0, tokens);
      EXPECT_EQ(got.load, tokens * sizes.per_token);
      const double noise = sizes.dtype == kBf16 ? 0.05 : 1e-5;
      for (int64_t t = 0; t < tokens; ++t) {
        const std::vector<double> want = Expected(network, t);
        for (int64_t c = 0; c < sizes.hidden; ++c) {
          ASSERT_NEAR(got.out[t * sizes.hidden + c], want[c], noise * (1 + std::fabs(want[c])))
              << "token " << t << " column " << c;
        }
      }
    }
  }
}

// 700 tokens need two passes.
TEST_P(ExpertsTest, BatchPassesAndBackendDoNotShow) {
  Numbers numbers(62);
  for (const Sizes& sizes : {kSizes[1], kSizes[2], kSizes[5]}) {
    constexpr int64_t kTokens = 700;
    const Network network(sizes, kTokens, numbers);
    const std::vector<float> want =
        RunExperts({"plain", cpu::Isa::kPlain, 1}, network, 0, kTokens).out;
    ExpectSameBits(RunExperts(GetParam(), network, 0, kTokens).out, want, "backend");
    for (const auto& [begin, count] : {std::pair<int64_t, int64_t>(0, 1), {699, 1}, {17, 533}}) {
      const std::vector<float> part = RunExperts(GetParam(), network, begin, count).out;
      const auto from = want.begin() + begin * sizes.hidden;
      ExpectSameBits(part, std::vector<float>(from, from + count * sizes.hidden),
                     std::to_string(count) + " tokens");
    }
  }
}

// Ranks add up pairwise to what one rank has; every pair is computed once.
TEST_P(ExpertsTest, RanksAddUpToTheSameBits) {
  Numbers numbers(63);
  for (const Sizes& sizes : kSizes) {
    constexpr int64_t kTokens = 23;
    const Network network(sizes, kTokens, numbers);
    const std::vector<float> want = RunExperts(GetParam(), network, 0, kTokens).out;
    for (int tp : {2, 4, 8}) {
      int64_t load = 0;
      std::vector<std::vector<float>> parts;
      for (int rank = 0; rank < tp; ++rank) {
        Outcome outcome = RunExperts(GetParam(), network, 0, kTokens, rank, tp);
        parts.push_back(std::move(outcome.out));
        load += outcome.load;
      }
      EXPECT_EQ(load, kTokens * sizes.per_token);
      for (int step = 1; step < tp; step *= 2) {
        for (int rank = 0; rank < tp; rank += 2 * step) {
          for (size_t i = 0; i < want.size(); ++i) parts[rank][i] += parts[rank + step][i];
        }
      }
      ExpectSameBits(parts[0], want, "tp " + std::to_string(tp));
    }
  }
}

using ExpertsDeathTest = ExpertsTest;
INSTANTIATE_TEST_SUITE_P(All, ExpertsDeathTest, testing::ValuesIn(Backends()), BackendName);

TEST_P(ExpertsDeathTest, WrongIdsEndTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  Numbers numbers(64);
  Network network({}, 4, numbers);
  network.ids = {0, 1, 2, 2, 4, 5, 6, 7};
  EXPECT_DEATH(RunExperts(GetParam(), network, 1, 1), "has expert 2 twice");
  network.ids = {0, 1, 2, 8, 4, 5, 6, 7};
  EXPECT_DEATH(RunExperts(GetParam(), network, 0, 4), "expert 8 of 8");
}

}  // namespace
}  // namespace tessera::experts_test
