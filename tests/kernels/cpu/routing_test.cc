// RouteExperts: against a plain rewriting of each rule in double, and what ties and NaNs do.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "tests/kernels/op_fixture.h"

namespace tessera::routing_test {
namespace {

using Scoring = RoutingSpec::Scoring;

struct Choice {
  std::vector<int32_t> ids;
  std::vector<double> weights;
};

// Indices of the k largest, the lower one first among equals.
std::vector<int32_t> Top(const std::vector<double>& x, int64_t k) {
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
  order.resize(static_cast<size_t>(k));
  return order;
}

std::vector<double> Softmax(const std::vector<double>& x) {
  const double max = *std::max_element(x.begin(), x.end());
  std::vector<double> p;
  for (double value : x) p.push_back(std::exp(value - max));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

Choice Mixed(std::vector<double> logits, double jitter) {
  Choice choice;
  const std::vector<double> all = logits;
  for (int j = 0; j < 2; ++j) {
    const int32_t best = Top(logits, 1)[0];
    const double top = logits[best];
    std::vector<double> near = logits;
    for (size_t e = 0; e < near.size(); ++e) {
      if ((top - all[e]) / std::max(std::fabs(all[e]), top) > 2 * jitter) near[e] = -1e30;
    }
    choice.ids.push_back(best);
    choice.weights.push_back(Softmax(near)[best]);
    logits[best] = -1e30;
  }
  return choice;
}

Choice Expected(const std::vector<float>& logits, const std::vector<float>& bias, int64_t k,
                const RoutingSpec& spec) {
  std::vector<double> scores(logits.begin(), logits.end());
  if (spec.scoring == Scoring::kSparseMixer) return Mixed(scores, spec.jitter);
  if (spec.scoring == Scoring::kSoftmax) scores = Softmax(scores);
  if (spec.scoring == Scoring::kSigmoid) {
    for (double& score : scores) score = 1 / (1 + std::exp(-score));
  }
  std::vector<double> compared = scores;
  for (size_t e = 0; e < bias.size(); ++e) compared[e] += bias[e];
  const size_t size = scores.size() / static_cast<size_t>(spec.num_groups);
  std::vector<double> groups;
  for (size_t begin = 0; begin < scores.size(); begin += size) {
    const std::vector<double> group(compared.begin() + begin, compared.begin() + begin + size);
    double sum = 0;
    for (int32_t best : Top(group, spec.group_top)) sum += group[best];
    groups.push_back(sum);
  }
  const std::vector<int32_t> kept = Top(groups, spec.groups_per_token);
  for (size_t e = 0; e < scores.size(); ++e) {
    if (std::find(kept.begin(), kept.end(), e / size) == kept.end()) compared[e] = -1e30;
  }
  Choice choice{.ids = Top(compared, k), .weights = {}};
  double sum = 0;
  for (int32_t id : choice.ids) sum += scores[id];
  for (int32_t id : choice.ids) {
    choice.weights.push_back(scores[id] / (spec.normalize ? sum : 1.0) * spec.scale);
  }
  return choice;
}

struct Case {
  int64_t experts, per_token;
  RoutingSpec spec;
  bool bias;
};

const Case kCases[] = {
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
    {6,
     2,
     {.scoring = Scoring::kSigmoid, .num_groups = 3, .groups_per_token = 1, .group_top = 2},
     true},
    {16, 2, {.scoring = Scoring::kSparseMixer, .jitter = 0.01f}, false},
    {16, 2, {.scoring = Scoring::kSparseMixer, .jitter = 0.4f}, false},
    {1024, 5, {.normalize = true}, false},
    {1, 1, {}, false},
};

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Routed RunRouting(const Backend& backend, DType dtype, const std::vector<float>& logits,
                  const std::vector<float>& bias, int64_t experts, int64_t per_token,
                  const RoutingSpec& spec) {
  Device device(backend);
  const int64_t tokens = static_cast<int64_t>(logits.size()) / experts;
  const Routing routing{.ids = device.Output(DType::kInt32, {tokens, per_token}),
                        .weights = device.Output(kF32, {tokens, per_token})};
  device.ops().RouteExperts(device.context(), routing, device.Put(dtype, {tokens, experts}, logits),
                            bias.empty() ? TensorView() : device.Put(kF32, {experts}, bias), spec);
  const int32_t* ids = routing.ids.as<const int32_t>();
  return {.ids = std::vector<int32_t>(ids, ids + tokens * per_token),
          .weights = device.Get(routing.weights)};
}

class RoutingTest : public OpTest {};
INSTANTIATE_TEST_SUITE_P(All, RoutingTest, testing::ValuesIn(Backends()), BackendName);

TEST_P(RoutingTest, FollowsTheRules) {
  Numbers numbers(71);
  constexpr int64_t kTokens = 40;
  for (DType dtype : {kF32, kBf16}) {
    for (const Case& c : kCases) {
      SCOPED_TRACE(testing::Message() << c.per_token << " of " << c.experts);
      const auto logits = Rounded(dtype, numbers.Normal(kTokens * c.experts, 2.0f));
      const auto bias = numbers.Normal(c.bias ? c.experts : 0, 0.3f);
      const Routed got =
          RunRouting(GetParam(), dtype, logits, bias, c.experts, c.per_token, c.spec);
      for (int64_t t = 0; t < kTokens; ++t) {
        const std::vector<float> own(logits.begin() + t * c.experts,
                                     logits.begin() + (t + 1) * c.experts);
        const Choice want = Expected(own, bias, c.per_token, c.spec);
        for (int64_t j = 0; j < c.per_token; ++j) {
          // Scores that float32 cannot tell apart may go either way in a wide softmax.
          const int64_t at = t * c.per_token + j;
          ASSERT_NEAR(got.weights[at], want.weights[j], 1e-5 * (1e-3 + want.weights[j]))
              << "token " << t << ", " << j;
          ASSERT_TRUE(got.ids[at] == want.ids[j] || own[got.ids[at]] == own[want.ids[j]])
              << "token " << t << ": " << got.ids[at] << ", not " << want.ids[j];
        }
      }
    }
  }
}

TEST_P(RoutingTest, BatchDoesNotShow) {
  Numbers numbers(72);
  for (const Case& c : kCases) {
    const auto logits = numbers.Normal(9 * c.experts);
    const auto bias = numbers.Normal(c.bias ? c.experts : 0, 0.3f);
    const Routed all = RunRouting({"plain", cpu::Isa::kPlain, 1}, kF32, logits, bias, c.experts,
                                  c.per_token, c.spec);
    const std::vector<float> last(logits.end() - c.experts, logits.end());
    const Routed alone = RunRouting(GetParam(), kF32, last, bias, c.experts, c.per_token, c.spec);
    ExpectSameBits(alone.weights,
                   std::vector<float>(all.weights.end() - c.per_token, all.weights.end()), "alone");
    EXPECT_EQ(alone.ids, std::vector<int32_t>(all.ids.end() - c.per_token, all.ids.end()));
  }
}

TEST_P(RoutingTest, TheLowerIdGoesFirstAmongEquals) {
  const std::vector<float> logits = {1, 3, 3, 0, 3, 3, 3, 1};
  EXPECT_EQ(RunRouting(GetParam(), kF32, logits, {}, 8, 3, {}).ids,
            (std::vector<int32_t>{1, 2, 4}));
  const RoutingSpec groups{.num_groups = 4, .groups_per_token = 2};
  EXPECT_EQ(RunRouting(GetParam(), kF32, logits, {}, 8, 3, groups).ids,
            (std::vector<int32_t>{1, 2, 0}));
}

// Whoever computes on sees that there was no choice to make; neighbours do not.
TEST_P(RoutingTest, ALogitThatIsNotFiniteSpoilsItsTokenAlone) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity}) {
    for (const RoutingSpec& spec :
         {RoutingSpec{}, RoutingSpec{.scoring = Scoring::kSigmoid, .normalize = true},
          RoutingSpec{.num_groups = 2, .groups_per_token = 1},
          RoutingSpec{.scoring = Scoring::kSparseMixer, .jitter = 0.1f}}) {
      std::vector<float> logits = {1, 2, 3, 4, 8, 7, 6, 5, 1, 3, 2, 4, 8, 6, 7, 5};
      const Routed good = RunRouting(GetParam(), kF32, logits, {}, 8, 2, spec);
      logits[11] = bad;
      const Routed met = RunRouting(GetParam(), kF32, logits, {}, 8, 2, spec);
      EXPECT_EQ(std::vector<int32_t>(met.ids.begin(), met.ids.begin() + 2),
                std::vector<int32_t>(good.ids.begin(), good.ids.begin() + 2));
      EXPECT_EQ(met.weights[0], good.weights[0]);
      EXPECT_EQ(met.weights[1], good.weights[1]);
      EXPECT_TRUE(std::isnan(met.weights[2]) && std::isnan(met.weights[3])) << bad;
      EXPECT_EQ(met.ids[2], 0);
      EXPECT_EQ(met.ids[3], 1);
    }
  }
}

// A bias may still make a score that is no number; it is chosen last, and nothing twice.
TEST_P(RoutingTest, NaNsOfABiasAreChosenLastAndNothingTwice) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const RoutingSpec sigmoid{.scoring = Scoring::kSigmoid};
  const std::vector<float> logits = {0, 1, 0, 2, 0, 0, 0, 0};
  const std::vector<float> some = {nan, 0, nan, 0, nan, nan, nan, nan};
  EXPECT_EQ(RunRouting(GetParam(), kF32, logits, some, 8, 3, sigmoid).ids,
            (std::vector<int32_t>{3, 1, 0}));
  const std::vector<float> all(8, nan);
  for (const RoutingSpec& spec :
       {RoutingSpec{}, sigmoid, RoutingSpec{.num_groups = 2, .groups_per_token = 1}}) {
    const std::vector<int32_t> ids = RunRouting(GetParam(), kF32, logits, all, 8, 2, spec).ids;
    EXPECT_EQ(std::set<int32_t>(ids.begin(), ids.end()).size(), 2u);
    for (int32_t id : ids) EXPECT_TRUE(id >= 0 && id < 8) << id;
  }
}

}  // namespace
}  // namespace tessera::routing_test
