// The sampler's passes: against sorting, against the definition of the draw, against the
// distribution that they promise, and merged over shards.

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/logit_key.h"
#include "kernels/philox.h"
#include "tests/kernels/op_fixture.h"

namespace tessera {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class SamplingTest : public OpTest {};
INSTANTIATE_TEST_SUITE_P(All, SamplingTest, testing::ValuesIn(Backends()), BackendName);

std::vector<Candidate> ArgMax(Device& device, int64_t rows, const std::vector<float>& logits,
                              int64_t vocab_begin) {
  std::vector<Candidate> best;
  const int64_t n = static_cast<int64_t>(logits.size()) / rows;
  device.ops().ArgMax(device.context(), best, device.Put(kF32, {rows, n}, logits), vocab_begin);
  return best;
}

TEST_P(SamplingTest, ArgMaxTakesTheLowestOfEquals) {
  Device device(GetParam());
  for (int64_t n : {1, 5, 16, 17, 40}) {
    for (int64_t at = 0; at < n; ++at) {
      std::vector<float> logits(static_cast<size_t>(n), -3.0f);
      logits[at] = logits[n - 1] = -1.0f;
      const auto best = ArgMax(device, 1, logits, 100);
      EXPECT_EQ(best[0].token, 100 + at);
      EXPECT_EQ(best[0].score, -1.0f);
    }
  }
  EXPECT_EQ(ArgMax(device, 1, {-1.0f, -0.0f, 0.0f}, 0)[0].token, 1);
  EXPECT_EQ(ArgMax(device, 1, {kNan, 1.0f, kNan, 2.0f, kNan}, 0)[0].token, 3);
  EXPECT_EQ(ArgMax(device, 1, {kNan, -kInfinity}, 7)[0].token, 8);
  EXPECT_EQ(ArgMax(device, 1, {1.0f, kInfinity, kInfinity}, 0)[0].token, 1);
  EXPECT_EQ(ArgMax(device, 2, {kNan, kNan, 1.0f, 2.0f}, 0)[0].token, -1);
  EXPECT_EQ(ArgMax(device, 2, {kNan, kNan, 1.0f, 2.0f}, 0)[1].token, 1);
}

// Largest threshold so that at least `k` tokens are at or above it, found digit by digit from
// histograms summed over the shards, as a sampler would.
float KthLogit(Device& device, const std::vector<float>& logits, int64_t shards, uint32_t k) {
  const int64_t n = static_cast<int64_t>(logits.size());
  uint32_t prefix = 0;
  uint32_t above = 0;
  for (int digit = 3; digit >= 0; --digit) {
    std::vector<uint32_t> count(256);
    std::vector<uint64_t> mass(256);
    for (int64_t s = 0; s < shards; ++s) {
      const std::vector<float> part(logits.begin() + n * s / shards,
                                    logits.begin() + n * (s + 1) / shards);
      const int64_t size = static_cast<int64_t>(part.size());
      device.ops().MassHistogram(device.context(), count, mass, device.Put(kF32, {1, size}, part),
                                 {1}, {prefix}, digit, {10.0f}, {1.0f});
    }
    int byte = 255;
    while (byte > 0 && above + count[byte] < k) above += count[byte--];
    prefix |= static_cast<uint32_t>(byte) << (8 * digit);
  }
  return LogitFromKey(prefix);
}

TEST_P(SamplingTest, HistogramsFindTheKthLogit) {
  Numbers numbers(61);
  auto logits = numbers.Normal(1000, 3.0f);
  for (int i = 0; i < 300; ++i) logits[numbers.Below(1000)] = 1.25f;  // ties
  for (int i = 0; i < 20; ++i) logits[numbers.Below(1000)] = 0.0f;
  for (int i = 0; i < 20; ++i) logits[numbers.Below(1000)] = -0.0f;
  auto sorted = logits;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  Device device(GetParam());
  for (uint32_t k : {1u, 2u, 50u, 200u, 400u, 999u, 1000u}) {
    for (int64_t shards : {1, 3, 8}) {
      EXPECT_EQ(KthLogit(device, logits, shards, k), sorted[k - 1]) << k << " of " << shards;
    }
  }
}

TEST_P(SamplingTest, HistogramMassIsTheSoftmax) {
  Numbers numbers(62);
  auto logits = numbers.Normal(700, 4.0f);
  logits[5] = kNan;
  logits[6] = -kInfinity;
  logits[7] = 20.0f;
  Device device(GetParam());
  for (float inv_temperature : {1.0f, 0.1f, 3.0f}) {
    std::vector<uint32_t> count(512, 0);
    std::vector<uint64_t> mass(512, 0);
    auto two_rows = logits;
    two_rows.insert(two_rows.end(), logits.begin(), logits.end());
    device.ops().MassHistogram(device.context(), count, mass, device.Put(kF32, {2, 700}, two_rows),
                               {0, 1}, {0, 0}, 3, {20.0f, 20.0f}, {9.0f, inv_temperature});
    EXPECT_EQ(std::accumulate(count.begin(), count.begin() + 256, 0u), 0u) << "inactive row";
    EXPECT_EQ(std::accumulate(count.begin() + 256, count.end(), 0u), 699u) << "all but the NaN";
    std::vector<double> want(256);
    for (float logit : logits) {
      if (std::isnan(logit)) continue;
      want[LogitKeyDigit(LogitKey(logit), 3)] +=
          std::exp((static_cast<double>(logit) - 20.0) * inv_temperature);
    }
    for (int b = 0; b < 256; ++b) {
      EXPECT_NEAR(static_cast<double>(mass[256 + b]) * 0x1p-40, want[b], want[b] * 3e-6 + 1e-9)
          << b;
    }
  }
}

// The definition, without pruning.
Candidate DrawPlainly(const std::vector<float>& logits, int64_t vocab_begin, const DrawRow& row) {
  Candidate best{-kInfinity, -1};
  int64_t ties = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const bool tie =
        logits[i] == row.threshold && (row.threshold == -kInfinity || ties++ < row.ties_kept);
    if (!(logits[i] > row.threshold || tie)) continue;
    const uint32_t token = static_cast<uint32_t>(vocab_begin + static_cast<int64_t>(i));
    const float score = static_cast<float>(static_cast<double>(logits[i]) * row.inv_temperature +
                                           GumbelNoise(row.seed, row.position, row.choice, token));
    if (best.token < 0 || score > best.score) best = {score, static_cast<int32_t>(token)};
  }
  return best;
}

std::vector<Candidate> Draw(Device& device, const std::vector<float>& logits, int64_t vocab_begin,
                            const std::vector<DrawRow>& rows) {
  std::vector<float> repeated;
  for (size_t i = 0; i < rows.size(); ++i) {
    repeated.insert(repeated.end(), logits.begin(), logits.end());
  }
  std::vector<Candidate> best;
  device.ops().Draw(
      device.context(), best,
      device.Put(kF32, {static_cast<int64_t>(rows.size()), static_cast<int64_t>(logits.size())},
                 repeated),
      vocab_begin, rows);
  return best;
}

TEST_P(SamplingTest, DrawIsItsDefinitionWithoutTheSkips) {
  Numbers numbers(63);
  Device device(GetParam());
  for (float spread : {0.0f, 0.5f, 4.0f, 3000.0f}) {
    auto logits = numbers.Normal(1003, spread);
    for (int i = 0; i < 40; ++i) logits[numbers.Below(1003)] = spread;  // ties at the threshold
    logits[17] = kNan;
    logits[18] = -kInfinity;
    for (int64_t vocab_begin : {0, 6, 1001}) {
      std::vector<DrawRow> rows;
      for (uint32_t i = 0; i < 40; ++i) {
        rows.push_back({.inv_temperature = i % 3 == 0 ? 1.0f : 0.05f * static_cast<float>(i),
                        .threshold = i % 2 == 0 ? -kInfinity : spread,
                        .ties_kept = i % 7,
                        .seed = 1000 + i,
                        .position = i * 17,
                        .choice = i % 4});
        if (rows.back().inv_temperature == 0.0f) rows.back().inv_temperature = 2.0f;
      }
      const auto got = Draw(device, logits, vocab_begin, rows);
      for (size_t i = 0; i < rows.size(); ++i) {
        const Candidate want = DrawPlainly(logits, vocab_begin, rows[i]);
        ASSERT_EQ(got[i].token, want.token) << "spread " << spread << " row " << i;
        ASSERT_EQ(got[i].score, want.score) << "spread " << spread << " row " << i;
      }
    }
  }
}

TEST_P(SamplingTest, DrawEdges) {
  Device device(GetParam());
  const DrawRow all{.threshold = -kInfinity, .seed = 5};
  EXPECT_EQ(Draw(device, {kNan, kNan, kNan}, 0, {all})[0].token, -1);
  EXPECT_EQ(Draw(device, {kNan, 1.0f, kNan}, 10, {all})[0].token, 11);
  EXPECT_EQ(Draw(device, {-kInfinity, 1.0f, -kInfinity}, 0, {all})[0].token, 1);
  EXPECT_EQ(Draw(device, {1.0f, kInfinity, kInfinity}, 0, {all})[0].token, 1);
  EXPECT_EQ(Draw(device, {-kInfinity, -kInfinity}, 3, {all})[0].token, 3);
  const DrawRow none{.threshold = 2.0f, .ties_kept = 0, .seed = 5};
  EXPECT_EQ(Draw(device, {1.0f, 2.0f}, 0, {none})[0].token, -1);
  const DrawRow one_tie{.threshold = 2.0f, .ties_kept = 1, .seed = 5};
  for (uint32_t position = 0; position < 20; ++position) {
    DrawRow row = one_tie;
    row.position = position;
    EXPECT_EQ(Draw(device, {1.0f, 2.0f, 2.0f, 2.0f}, 0, {row})[0].token, 1);
  }
}

TEST_P(SamplingTest, ShardsMergeToTheWhole) {
  Numbers numbers(64);
  Device device(GetParam());
  const auto logits = numbers.Normal(1001, 2.0f);
  std::vector<DrawRow> rows;
  for (uint32_t i = 0; i < 50; ++i)
    rows.push_back({.threshold = -kInfinity, .seed = i, .position = i});
  const auto whole = Draw(device, logits, 0, rows);
  for (int64_t shards : {2, 3, 8}) {
    std::vector<Candidate> merged(rows.size(), Candidate{-kInfinity, -1});
    for (int64_t s = 0; s < shards; ++s) {
      const int64_t begin = 1001 * s / shards;
      const auto part = Draw(
          device, {logits.begin() + begin, logits.begin() + 1001 * (s + 1) / shards}, begin, rows);
      for (size_t i = 0; i < rows.size(); ++i) {
        if (part[i].score > merged[i].score) merged[i] = part[i];
      }
    }
    for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(merged[i].token, whole[i].token) << i;
  }
}

// 20 000 draws over positions: frequencies follow the softmax.
TEST_P(SamplingTest, DrawsFollowTheSoftmax) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f, 0.5f, kNan, 1.5f};
  constexpr int kDraws = 20'000;
  constexpr float kInvTemperature = 0.8f;
  Device device(GetParam());
  std::vector<DrawRow> rows;
  for (int i = 0; i < kDraws; ++i) {
    rows.push_back({.inv_temperature = kInvTemperature,
                    .threshold = -kInfinity,
                    .seed = 99,
                    .position = static_cast<uint32_t>(i)});
  }
  std::vector<double> seen(logits.size());
  for (const Candidate& candidate : Draw(device, logits, 0, rows)) ++seen[candidate.token];
  double total = 0;
  for (float logit : logits) total += std::isnan(logit) ? 0 : std::exp(logit * kInvTemperature);
  double chi_square = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) {
      EXPECT_EQ(seen[i], 0) << "drew a NaN";
      continue;
    }
    const double want = kDraws * std::exp(logits[i] * kInvTemperature) / total;
    chi_square += (seen[i] - want) * (seen[i] - want) / want;
  }
  EXPECT_LT(chi_square, 20.5);  // five degrees of freedom, one in a thousand; the seed is fixed
}

}  // namespace
}  // namespace tessera
