// Choosing experts and what they compute, against the CPU; and the promise that neither the batch
// nor the number of ranks shows in the bits.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/gpu/side.h"

namespace tessera::gpu {
namespace {

using Scoring = RoutingSpec::Scoring;

struct Choice {
  int64_t experts, per_token;
  RoutingSpec spec;
  bool bias;
};

const Choice kChoices[] = {
    {8, 2, {.normalize = true}, false},
    {11, 11, {.scale = 3.5f}, false},
    {60, 4, {}, true},
    {128, 8, {.normalize = true}, false},
    {12, 3, {.num_groups = 4, .groups_per_token = 2, .group_top = 1, .scale = 16.0f}, false},
    {256,
     8,
     {.scoring = Scoring::kSigmoid,
      .num_groups = 8,
      .groups_per_token = 4,
      .group_top = 2,
      .normalize = true,
      .scale = 2.5f},
     true},
    {80, 2, {.num_groups = 40, .groups_per_token = 3, .group_top = 2}, false},
    {16, 2, {.scoring = Scoring::kSparseMixer, .jitter = 0.01f}, false},
    {16, 2, {.scoring = Scoring::kSparseMixer, .jitter = 0.4f}, false},
    {1024, 5, {.normalize = true}, false},
    {1, 1, {}, false},
};

class GpuExpertsTest : public GpuTest {};

// Choice and weights bit for bit: a choice that differs is another model.
TEST_F(GpuExpertsTest, ChoicesAreTheCpus) {
  for (const DType dtype : {kF32, kBf16}) {
    for (const Choice& c : kChoices) {
      const int64_t tokens = 37;
      auto logits = Normal(tokens * c.experts, 2.0f);
      for (int64_t e = 0; e < c.experts; ++e) {
        logits[e] = 0.5f;                                                 // all alike
        logits[c.experts + e] = std::numeric_limits<float>::quiet_NaN();  // no number at all
        if (e % 3 == 0) logits[2 * c.experts + e] = -std::numeric_limits<float>::infinity();
        if (e % 4 == 1) logits[3 * c.experts + e] = std::numeric_limits<float>::quiet_NaN();
        if (e == c.experts / 2) logits[4 * c.experts + e] = std::numeric_limits<float>::infinity();
      }
      const auto bias = Normal(c.experts, 0.1f);
      const auto run = [&](Side& side) {
        const TensorView ids = side.Output(kF32, {tokens, c.per_token});
        TensorView as_ints = ids;
        as_ints.dtype = DType::kInt32;
        const TensorView weights = side.Output(kF32, {tokens, c.per_token});
        side.ops().RouteExperts(side.context(), {.ids = as_ints, .weights = weights},
                                side.Put(dtype, {tokens, c.experts}, logits),
                                c.bias ? side.Put(kF32, {c.experts}, bias) : TensorView(), c.spec);
        auto values = side.Get(weights);
        const auto bits = side.Get(ids);
        values.insert(values.end(), bits.begin(), bits.end());
        // One NaN is like another.
        for (float& value : values) value = std::isnan(value) ? -1.0f : value;
        return values;
      };
      ExpectSameBits(run(tested()), run(oracle()),
                     std::to_string(c.per_token) + " of " + std::to_string(c.experts));
    }
  }
}

struct Sizes {
  int64_t experts = 8, per_token = 2, hidden = 20, inner = 12;
  int64_t shared = 0;  // columns of the shared expert
  bool gate = false;   // of the shared expert
  DType dtype = kF32;
  bool float8 = false;  // weights

  DType weights() const { return float8 ? kFp8 : dtype; }
};

const Sizes kSizes[] = {
    {},
    {.experts = 11, .per_token = 3, .hidden = 33, .inner = 17},
    {.experts = 3, .per_token = 1, .hidden = 7, .inner = 5},
    {.experts = 9, .per_token = 4, .hidden = 70, .inner = 24, .shared = 16, .dtype = kBf16},
    {.experts = 16, .per_token = 16, .hidden = 16, .inner = 16, .shared = 40, .gate = true},
    {.per_token = 2, .hidden = 130, .inner = 9, .shared = 8, .gate = true, .dtype = kBf16},
    {.per_token = 2, .hidden = 512, .inner = 64, .shared = 512, .dtype = kBf16},
    {.per_token = 3, .hidden = 96, .inner = 40, .shared = 64, .dtype = kBf16, .float8 = true},
    {.per_token = 2, .hidden = 33, .inner = 17, .shared = 16, .gate = true, .float8 = true},
};

// A network of random numbers, the same on every side that it is put on.
struct Network {
  Sizes sizes;
  int64_t tokens = 0;
  std::vector<float> x, activated, shared_down, gate, weights;
  std::vector<std::vector<float>> gate_up, down;
  std::vector<int32_t> ids;
};

// Tokens [begin, begin + count) on rank `rank` of `tp`.
std::vector<float> RunExperts(Side& side, const Network& network, int64_t begin, int64_t count,
                              int rank = 0, int tp = 1) {
  const Sizes& sizes = network.sizes;
  const int slices = kReduceSlices / tp;
  ExpertShare share{.num_experts = sizes.experts,
                    .first_slice = rank * slices,
                    .num_slices = slices,
                    .activation = Activation::kSilu};
  std::vector<std::unique_ptr<Weight>> owned;
  const auto put = [&](const WeightShape& shape, const std::vector<float>& values) {
    owned.push_back(side.PutWeight(shape, values));
    return owned.back().get();
  };
  const int64_t first = SliceBegin(sizes.experts, share.first_slice);
  for (int64_t e = first; e < SliceBegin(sizes.experts, share.first_slice + slices); ++e) {
    share.experts.push_back(
        {.gate_up =
             put({.rows = 2 * sizes.inner, .columns = sizes.hidden, .dtype = sizes.weights()},
                 network.gate_up[e]),
         .down = put({.rows = sizes.hidden, .columns = sizes.inner, .dtype = sizes.weights()},
                     network.down[e])});
  }
  SharedExpert shared;
  if (sizes.shared > 0) {
    const int64_t columns = sizes.shared / tp;
    std::vector<float> shard;
    for (int64_t row = 0; row < sizes.hidden; ++row) {
      const auto from = network.shared_down.begin() + row * sizes.shared + rank * columns;
      shard.insert(shard.end(), from, from + columns);
    }
    shared.down = put({.rows = sizes.hidden,
                       .columns = columns,
                       .dtype = sizes.weights(),
                       .column_begin = rank * columns,
                       .column_total = sizes.shared},
                      shard);
    shared.activated = side.Put(sizes.dtype, {network.tokens, sizes.shared}, network.activated)
                           .Rows(begin, count)
                           .Columns(rank * columns, columns);
    if (sizes.gate)
      shared.gate = side.Put(kF32, {network.tokens, 1}, network.gate).Rows(begin, count);
  }
  const Routing routing{
      .ids = side.PutInts({network.tokens, sizes.per_token}, network.ids).Rows(begin, count),
      .weights =
          side.Put(kF32, {network.tokens, sizes.per_token}, network.weights).Rows(begin, count)};
  const TensorView load_words = side.PutInts({2}, {100, 0});
  const TensorView load(load_words.data, DType::kInt64, {1});
  const TensorView out = side.Output(kF32, {count, sizes.hidden});
  side.ops().ExpertsPartial(
      side.context(), out,
      side.Put(sizes.dtype, {network.tokens, sizes.hidden}, network.x).Rows(begin, count), routing,
      share, shared, load);
  auto values = side.Get(out);
  int64_t pairs = 0;
  side.ops().CopyToHost(side.context(), &pairs, load.data, sizeof(pairs));
  int64_t expected = 100;
  for (int64_t i = begin * sizes.per_token; i < (begin + count) * sizes.per_token; ++i) {
    const int64_t expert = network.ids[i] - first;
    expected += expert >= 0 && expert < static_cast<int64_t>(share.experts.size());
  }
  EXPECT_EQ(pairs, expected);
  return values;
}

class GpuExpertNetworkTest : public GpuTest {
 protected:
  Network NewNetwork(const Sizes& sizes, int64_t tokens) {
    Network n;
    n.sizes = sizes;
    n.tokens = tokens;
    const float narrow = 1.0f / std::sqrt(static_cast<float>(sizes.hidden));
    const float wide = 1.0f / std::sqrt(static_cast<float>(sizes.inner));
    n.x = Normal(tokens * sizes.hidden);
    for (int64_t e = 0; e < sizes.experts; ++e) {
      n.gate_up.push_back(Normal(2 * sizes.inner * sizes.hidden, narrow));
      n.down.push_back(Normal(sizes.hidden * sizes.inner, wide));
    }
    n.activated = Normal(tokens * sizes.shared);
    n.shared_down = Normal(sizes.hidden * sizes.shared, 0.3f);
    n.gate = Normal(tokens);
    n.weights = Normal(tokens * sizes.per_token);
    std::vector<int32_t> all(static_cast<size_t>(sizes.experts));
    std::iota(all.begin(), all.end(), 0);
    for (int64_t t = 0; t < tokens; ++t) {
      std::shuffle(all.begin(), all.end(), random());
      n.ids.insert(n.ids.end(), all.begin(), all.begin() + sizes.per_token);
    }
    return n;
  }
};

TEST_F(GpuExpertNetworkTest, MatchesTheCpu) {
  for (const Sizes& sizes : kSizes) {
    for (const int64_t tokens : {1, 6, 45, 130}) {
      const Network network = NewNetwork(sizes, tokens);
      const auto run = [&](Side& side) { return RunExperts(side, network, 0, tokens); };
      // A gate or an activation may round the other way.
      const double noise = sizes.dtype == kBf16 ? 0.03 : 1e-5;
      ExpectNear(run(tested()), run(oracle()), kF32, noise, noise,
                 std::to_string(sizes.experts) + " experts, " + std::to_string(tokens) + " tokens");
    }
  }
}

// Many tokens go by wide tiles, a few not; and a small workspace makes several passes.
TEST_F(GpuExpertNetworkTest, CompanyAndPassesDoNotShowInTheBits) {
  for (const Sizes& sizes : {kSizes[1], kSizes[5], kSizes[6], kSizes[7]}) {
    const int64_t tokens = 150;
    const Network network = NewNetwork(sizes, tokens);
    const auto all = RunExperts(tested(), network, 0, tokens);
    const TensorView workspace = tested().context().workspace;
    // The CPU has passes of its own.
    const int64_t few = TestedIsCpu() ? tokens : 40;
    for (const auto& [begin, count] :
         {std::pair<int64_t, int64_t>(0, 1), {149, 1}, {17, 9}, {3, 140}, {0, 150}}) {
      if (count == 150) {
        const size_t one =
            tested().ops().ExpertsWorkspaceBytes(few, {.hidden = sizes.hidden,
                                                       .num_experts = sizes.experts,
                                                       .experts_per_token = sizes.per_token,
                                                       .intermediate = sizes.inner,
                                                       .shared = sizes.shared});
        tested().context().workspace = workspace.Rows(static_cast<int64_t>(one));
      }
      const auto part = RunExperts(tested(), network, begin, count);
      const auto from = all.begin() + begin * sizes.hidden;
      ExpectSameBits(part, {from, from + count * sizes.hidden}, std::to_string(count) + " tokens");
    }
    tested().context().workspace = workspace;
  }
}

TEST_F(GpuExpertNetworkTest, RanksAddUpToTheSameBits) {
  for (const Sizes& sizes : kSizes) {
    const int64_t tokens = 23;
    const Network network = NewNetwork(sizes, tokens);
    const auto whole = RunExperts(tested(), network, 0, tokens);
    for (const int tp : {2, 4, 8}) {
      std::vector<std::vector<float>> parts;
      for (int rank = 0; rank < tp; ++rank) {
        parts.push_back(RunExperts(tested(), network, 0, tokens, rank, tp));
      }
      for (int step = 1; step < tp; step *= 2) {
        for (int r = 0; r < tp; r += 2 * step) {
          for (size_t i = 0; i < whole.size(); ++i) parts[r][i] += parts[r + step][i];
        }
      }
      ExpectSameBits(parts[0], whole, "tp " + std::to_string(tp));
    }
  }
}

}  // namespace
}  // namespace tessera::gpu
