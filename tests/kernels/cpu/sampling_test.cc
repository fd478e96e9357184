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

// One entry per row of logits, without masks.
LogitRows AllRows(const TensorView& logits, int64_t vocab_begin) {
  LogitRows rows = {.logits = logits, .vocab_begin = vocab_begin};
  for (int64_t r = 0; r < logits.dims[0]; ++r) rows.row.push_back(static_cast<int32_t>(r));
  return rows;
}

std::vector<Candidate> ArgMax(Device& device, int64_t rows, const std::vector<float>& logits,
                              int64_t vocab_begin) {
  std::vector<Candidate> best;
  const int64_t n = static_cast<int64_t>(logits.size()) / rows;
  device.ops().TopLogits(device.context(), best,
                         AllRows(device.Put(kF32, {rows, n}, logits), vocab_begin), 1);
  return best;
}

TEST_P(SamplingTest, TheLargestIsTheLowestOfEquals) {
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

// One case of the table: a shard of logits, its first token, and a mask or none.
struct ShardCase {
  const char* name;
  int64_t columns;
  int64_t vocab_begin;
  float step;  // logits are multiples of it: the larger, the more ties; 0: none
  bool masked;
  bool broken;  // holds NaN and infinities
};

const ShardCase kShards[] = {
    {"one", 1, 0, 0.0f, false, false},
    {"one_word", 32, 7, 1.0f, true, false},
    {"odd", 33, 1000, 0.0f, true, false},
    {"a_batch", 256, 0, 0.5f, false, true},
    {"a_batch_and_one", 257, 3, 2.0f, true, true},
    {"many", 1009, 131072, 0.0f, false, false},
    {"many_ties", 1009, 5, 3.0f, true, true},
};

// A case's tensors: three rows of logits with a gap between them, two masks, and entries that read
// them in another order than they lie, some twice.
struct Shard {
  Shard(Device& device, const ShardCase& shape, uint32_t seed) {
    Numbers numbers(seed);
    const int64_t n = shape.columns;
    const int64_t stride = n + 3;
    std::vector<float> padded(static_cast<size_t>(3 * stride), 1e9f);
    std::vector<std::vector<float>> logits;
    for (int64_t r = 0; r < 3; ++r) {
      logits.push_back(numbers.Normal(n, 4.0f));
      for (float& x : logits.back()) {
        if (shape.step > 0) x = std::round(x / shape.step) * shape.step;
        const int odd = shape.broken ? numbers.Below(40) : -1;
        if (odd == 0) x = kNan;
        if (odd == 1) x = -kInfinity;
      }
      if (shape.broken && r == 1) std::fill(logits[1].begin(), logits[1].end(), kNan);
      std::copy(logits[r].begin(), logits[r].end(), padded.begin() + r * stride);
    }
    rows.logits = device.Put(kF32, {3, stride}, padded).Columns(0, n);
    rows.vocab_begin = shape.vocab_begin;
    rows.row = {2, 0, 2, 1, 0};
    const int64_t words = (n + 31) / 32;
    std::vector<int32_t> masks(static_cast<size_t>(2 * words));
    for (int32_t& word : masks) word = static_cast<int32_t>(numbers.Below(1 << 30) * 5);
    if (shape.masked) {
      rows.masks = device.PutInts({2, words}, masks);
      rows.mask = {-1, 1, 0, 0, -1};
    }
    for (size_t e = 0; e < rows.row.size(); ++e) {
      seen.push_back(logits[rows.row[e]]);
      if (!shape.masked || rows.mask[e] < 0) continue;
      for (int64_t i = 0; i < n; ++i) {
        const uint32_t word = static_cast<uint32_t>(masks[rows.mask[e] * words + i / 32]);
        if ((word >> (i % 32) & 1) == 0) seen[e][i] = -kInfinity;
      }
    }
  }

  LogitRows rows;
  std::vector<std::vector<float>> seen;  // what every entry should read
};

TEST_P(SamplingTest, TopLogitsEqualSorting) {
  Device device(GetParam());
  for (const ShardCase& shape : kShards) {
    const Shard shard(device, shape, 65);
    for (const int n : {1, 2, 7, kTopLogitsMax}) {
      std::vector<Candidate> best;
      device.ops().TopLogits(device.context(), best, shard.rows, n);
      ASSERT_EQ(best.size(), shard.seen.size() * n);
      for (size_t e = 0; e < shard.seen.size(); ++e) {
        const std::vector<float>& x = shard.seen[e];
        std::vector<int32_t> order;
        for (size_t i = 0; i < x.size(); ++i) {
          if (!std::isnan(x[i])) order.push_back(static_cast<int32_t>(i));
        }
        std::stable_sort(order.begin(), order.end(),
                         [&](int32_t a, int32_t b) { return x[a] > x[b]; });
        for (int i = 0; i < n; ++i) {
          const bool exists = i < static_cast<int>(order.size());
          const Candidate& got = best[e * n + i];
          ASSERT_EQ(got.token, exists ? shape.vocab_begin + order[i] : -1)
              << shape.name << " entry " << e << " place " << i << " of " << n;
          ASSERT_EQ(got.score, exists ? x[order[i]] : -kInfinity);
        }
      }
    }
  }
}

// Every op reads an entry as if its logits stood alone with -inf where the mask says so.
TEST_P(SamplingTest, EntriesReadTheirRowThroughTheirMask) {
  Device device(GetParam());
  for (const ShardCase& shape : kShards) {
    const Shard shard(device, shape, 66);
    const size_t entries = shard.seen.size();
    std::vector<DrawRow> draws(entries, {.threshold = -3.0f, .ties_kept = 2, .seed = 5});
    for (size_t e = 0; e < entries; ++e) draws[e].position = static_cast<uint32_t>(e);
    std::vector<Candidate> drawn;
    device.ops().Draw(device.context(), drawn, shard.rows, draws);
    std::vector<uint32_t> count(entries * 256);
    std::vector<uint64_t> mass(entries * 256);
    const std::vector<float> max(entries, 30.0f), inv_temperature(entries, 0.5f);
    device.ops().MassHistogram(device.context(), count, mass, shard.rows,
                               std::vector<uint32_t>(entries, 0xc0000000u), 2, max,
                               inv_temperature);
    for (size_t e = 0; e < entries; ++e) {
      const LogitRows alone =
          AllRows(device.Put(kF32, {1, shape.columns}, shard.seen[e]), shape.vocab_begin);
      std::vector<Candidate> want;
      device.ops().Draw(device.context(), want, alone, {draws[e]});
      EXPECT_EQ(drawn[e].token, want[0].token) << shape.name << " entry " << e;
      EXPECT_EQ(drawn[e].score, want[0].score) << shape.name << " entry " << e;
      std::vector<uint32_t> want_count(256);
      std::vector<uint64_t> want_mass(256);
      device.ops().MassHistogram(device.context(), want_count, want_mass, alone, {0xc0000000u}, 2,
                                 {30.0f}, {0.5f});
      for (int b = 0; b < 256; ++b) {
        ASSERT_EQ(count[e * 256 + b], want_count[b]) << shape.name << " entry " << e;
        ASSERT_EQ(mass[e * 256 + b], want_mass[b]) << shape.name << " entry " << e;
      }
    }
  }
}

TEST_P(SamplingTest, GatheredAndScatteredLogitsAreThoseNamed) {
  Device device(GetParam());
  const TensorView whole = device.Output(kF32, {3, 5});
  const std::vector<float> start = {0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 20, 21, 22, 23, kNan};
  device.ops().CopyToDevice(device.context(), whole.data, start.data(), start.size() * 4);
  const TensorView logits = whole.Columns(1, 4);
  std::vector<float> values = {99.0f};
  device.ops().GatherLogits(device.context(), values, logits, {{2, 0}, {0, 3}, {2, 0}, {1, 1}});
  EXPECT_EQ(values, (std::vector<float>{21, 4, 21, 12}));
  device.ops().ScatterLogits(device.context(), logits, {{1, 0}, {2, 3}, {0, 2}},
                             {-kInfinity, -0.0f, 7.0f});
  EXPECT_EQ(device.Get(whole),
            (std::vector<float>{0, 1, 2, 7, 4, 10, -kInfinity, 12, 13, 14, 20, 21, 22, 23, -0.0f}));
  device.ops().GatherLogits(device.context(), values, logits, {});
  EXPECT_TRUE(values.empty());
  device.ops().ScatterLogits(device.context(), logits, {}, {});
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
      device.ops().MassHistogram(device.context(), count, mass,
                                 AllRows(device.Put(kF32, {1, size}, part), 0), {prefix}, digit,
                                 {10.0f}, {1.0f});
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
    device.ops().MassHistogram(device.context(), count, mass,
                               AllRows(device.Put(kF32, {2, 700}, two_rows), 0), {0, 0}, 3,
                               {20.0f, 20.0f}, {9.0f, inv_temperature});
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
  LogitRows entries = {.logits = device.Put(kF32, {1, static_cast<int64_t>(logits.size())}, logits),
                       .vocab_begin = vocab_begin,
                       .row = std::vector<int32_t>(rows.size(), 0)};
  std::vector<Candidate> best;
  device.ops().Draw(device.context(), best, entries, rows);
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
