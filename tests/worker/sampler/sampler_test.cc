// The sampler against the sorting reference: many ties, every kind of row mixed, 1, 2 and 4 shards;
// what it does with broken logits; how many collectives it needs; and that it draws what the
// softmax says.

#include "worker/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <thread>

#include "counting_communicator.h"
#include "reference.h"
#include "worker/comm/loopback.h"

namespace tessera {
namespace {

constexpr uint32_t kSeed = 4711;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Matrix = std::vector<std::vector<float>>;  // [R, V]

struct Outcome {
  std::vector<int32_t> tokens;
  int gathers = 0;
};

// Samples over `shards` threads with uneven shards; all ranks must agree.
Outcome SampleSharded(const Matrix& logits, const std::vector<SampleRow>& rows, int shards) {
  std::vector<std::unique_ptr<Ops>> ops;
  std::vector<Ops*> pointers;
  for (int r = 0; r < shards; ++r) {
    ops.push_back(std::move(NewCpuOps()).value());
    pointers.push_back(ops.back().get());
  }
  auto comms = NewLoopback(pointers, absl::Seconds(20));
  const int64_t vocab = logits.empty() ? 64 : static_cast<int64_t>(logits[0].size());
  std::vector<Outcome> outcomes(shards);
  std::vector<std::thread> threads;
  for (int r = 0; r < shards; ++r) {
    threads.emplace_back([&, r]() {
      const int64_t begin = vocab * r / shards, end = vocab * (r + 1) / shards;
      std::vector<float> shard;
      for (const auto& row : logits)
        shard.insert(shard.end(), row.begin() + begin, row.begin() + end);
      CountingCommunicator comm(*comms[r]);
      Sampler sampler(*ops[r], comm, begin, vocab);
      const TensorView view(shard.data(), DType::kFloat32,
                            {static_cast<int64_t>(rows.size()), end - begin});
      const absl::Status status = sampler.Sample(ExecContext(), outcomes[r].tokens, view, rows);
      EXPECT_TRUE(status.ok()) << status;
      outcomes[r].gathers = comm.gathers();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.tokens, outcomes[0].tokens);
    EXPECT_EQ(outcome.gathers, outcomes[0].gathers);
  }
  return outcomes[0];
}

// `step` > 0 rounds logits to multiples of it: the coarser, the more ties.
std::vector<float> RandomLogits(std::mt19937& random, size_t vocab, float step) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(vocab);
  for (float& x : logits) {
    x = normal(random);
    if (step > 0) x = std::round(x / step) * step;  // makes -0 too
  }
  return logits;
}

SampleRow RandomRow(std::mt19937& random, uint32_t position) {
  SampleRow row;
  const float temperatures[] = {0.0f, 0.3f, 0.7f, 1.0f, 1.8f};
  const uint32_t top_ks[] = {0, 0, 1, 2, 5, 40, 100000};
  const float top_ps[] = {1.0f, 1.0f, 0.0f, 0.1f, 0.5f, 0.9f, 0.999f};
  row.temperature = temperatures[random() % 5];
  row.top_k = top_ks[random() % 7];
  row.top_p = top_ps[random() % 7];
  row.seed = random();
  row.position = position;
  row.choice = random() % 3;
  return row;
}

TEST(SamplerTest, EqualsTheSortingReferenceOnEveryShardCount) {
  std::cout << "seed " << kSeed << "\n";
  std::mt19937 random(kSeed);
  for (int round = 0; round < 12; ++round) {
    const float step = std::array{0.0f, 0.25f, 1.0f, 4.0f}[round % 4];
    Matrix logits;
    std::vector<SampleRow> rows;
    for (uint32_t r = 0; r < 40; ++r) {
      logits.push_back(RandomLogits(random, 1009, step));
      rows.push_back(RandomRow(random, r));
    }
    for (const int shards : {1, 2, 4}) {
      const Outcome outcome = SampleSharded(logits, rows, shards);
      for (size_t r = 0; r < rows.size(); ++r) {
        EXPECT_EQ(outcome.tokens[r], ReferenceSample(logits[r], rows[r]))
            << "round " << round << " row " << r << " shards " << shards << " temperature "
            << rows[r].temperature << " top_k " << rows[r].top_k << " top_p " << rows[r].top_p;
      }
    }
  }
}

// A draw that never meets the border of the cut would not notice a wrong cut: here every position
// draws from a flat set of ties, so that each kept token comes up and none of the others ever does.
TEST(SamplerTest, CutsExactlyThroughTies) {
  std::vector<float> flat(40, 1.0f);
  flat[7] = 2.0f;
  flat[39] = -5.0f;
  struct Case {
    uint32_t top_k;
    float top_p;
  };
  for (const Case& c :
       {Case{9, 1.0f}, Case{20, 1.0f}, Case{0, 0.5f}, Case{30, 0.5f}, Case{39, 1.0f}}) {
    SampleRow row{.temperature = 1.0f, .top_k = c.top_k, .top_p = c.top_p, .seed = kSeed};
    std::vector<int32_t> expected = ReferenceCut(flat, row);
    std::sort(expected.begin(), expected.end());
    std::vector<SampleRow> rows;
    for (uint32_t i = 0; i < 600; ++i) {
      row.position = i;
      rows.push_back(row);
    }
    const Matrix logits(rows.size(), flat);
    for (const int shards : {1, 2, 4}) {
      const std::vector<int32_t> tokens = SampleSharded(logits, rows, shards).tokens;
      std::map<int32_t, int> seen;
      for (const int32_t token : tokens) ++seen[token];
      std::vector<int32_t> drawn;
      for (const auto& [token, times] : seen) drawn.push_back(token);
      EXPECT_EQ(drawn, expected) << "top_k " << c.top_k << " top_p " << c.top_p << " shards "
                                 << shards;
    }
  }
}

TEST(SamplerTest, ARowDoesNotDependOnItsNeighbours) {
  std::mt19937 random(kSeed + 1);
  Matrix logits;
  std::vector<SampleRow> rows;
  for (uint32_t r = 0; r < 24; ++r) {
    logits.push_back(RandomLogits(random, 257, 0.5f));
    rows.push_back(RandomRow(random, r));
  }
  const std::vector<int32_t> together = SampleSharded(logits, rows, 2).tokens;
  for (size_t r = 0; r < rows.size(); ++r) {
    EXPECT_EQ(SampleSharded({logits[r]}, {rows[r]}, 2).tokens[0], together[r]) << r;
  }
}

TEST(SamplerTest, NoDrawWithoutItsOwnSeedPositionAndChoice) {
  std::mt19937 random(kSeed + 2);
  const std::vector<float> logits = RandomLogits(random, 5000, 0.0f);
  const SampleRow base{.temperature = 5.0f, .seed = 1, .position = 1, .choice = 0};
  std::vector<SampleRow> rows(4, base);
  rows[1].seed = 1ull << 40 | 1;
  rows[2].position = 2;
  rows[3].choice = 1;
  const std::vector<int32_t> tokens = SampleSharded(Matrix(4, logits), rows, 1).tokens;
  EXPECT_THAT(std::set<int32_t>(tokens.begin(), tokens.end()), testing::SizeIs(4));
}

TEST(SamplerTest, BrokenRowsAreMarkedAndTheOthersAreGood) {
  const SampleRow greedy;
  const SampleRow drawn{.temperature = 1.0f, .seed = 3};
  const SampleRow cut{.temperature = 1.0f, .top_k = 10, .top_p = 0.9f, .seed = 3};
  std::mt19937 random(kSeed + 3);
  const std::vector<float> good = RandomLogits(random, 64, 0.0f);
  std::vector<float> half = good;  // one shard of two is NaN
  std::fill(half.begin() + 32, half.end(), kNaN);
  std::vector<float> few(64, kNaN);  // fewer numbers than top_k
  few[50] = 1.0f;
  few[11] = 1.0f;
  std::vector<float> infinite = good;
  infinite[40] = kInfinity;
  const std::vector<float> nan(64, kNaN), minus(64, -kInfinity);
  for (const SampleRow& row : {greedy, drawn, cut}) {
    const Matrix logits = {good, nan, half, minus, few, infinite, good};
    const std::vector<SampleRow> rows(logits.size(), row);
    for (const int shards : {1, 2}) {
      const std::vector<int32_t> tokens = SampleSharded(logits, rows, shards).tokens;
      for (size_t r = 0; r < logits.size(); ++r) {
        EXPECT_EQ(tokens[r], ReferenceSample(logits[r], row)) << "row " << r;
      }
      EXPECT_EQ(tokens[1], Sampler::kNoToken);
      EXPECT_EQ(tokens[3], Sampler::kNoToken);
      EXPECT_EQ(tokens[5], 40);
    }
  }
}

TEST(SamplerTest, OddParametersAreHarmless) {
  std::mt19937 random(kSeed + 4);
  const std::vector<float> logits = RandomLogits(random, 64, 0.0f);
  const int32_t best = ReferenceSample(logits, {});
  const auto sample = [&](SampleRow row) { return SampleSharded({logits}, {row}, 2).tokens[0]; };
  EXPECT_EQ(sample({.temperature = kNaN}), best);
  EXPECT_EQ(sample({.temperature = -1.0f}), best);
  EXPECT_EQ(sample({.temperature = 1e-30f}), best);
  EXPECT_EQ(sample({.temperature = 1.0f, .top_p = -1.0f}), best);
  EXPECT_EQ(sample({.temperature = 1.0f, .top_k = 1}), best);
  EXPECT_GE(sample({.temperature = 1e30f, .top_k = 0xffffffffu, .top_p = kNaN}), 0);
}

TEST(SamplerTest, CollectivesAreAsFewAsTheRowsNeed) {
  std::mt19937 random(kSeed + 5);
  const std::vector<float> logits = RandomLogits(random, 64, 0.0f);
  const SampleRow greedy;
  const SampleRow drawn{.temperature = 1.0f};
  const SampleRow top_k{.temperature = 1.0f, .top_k = 5};
  const SampleRow top_p{.temperature = 1.0f, .top_p = 0.5f};
  const SampleRow both{.temperature = 1.0f, .top_k = 5, .top_p = 0.5f};
  const auto gathers = [&](const std::vector<SampleRow>& rows) {
    return SampleSharded(Matrix(rows.size(), logits), rows, 2).gathers;
  };
  EXPECT_EQ(gathers({}), 0);
  EXPECT_EQ(gathers({greedy, greedy}), 1);
  EXPECT_EQ(gathers({drawn, drawn}), 1);
  EXPECT_EQ(gathers({greedy, drawn}), 2);
  EXPECT_EQ(gathers({top_k, top_p, greedy}), 6);
  EXPECT_EQ(gathers({both, top_p, drawn, greedy}), 9);
}

// Chi-square of 20000 draws against the softmax of what the cut left.
TEST(SamplerTest, DrawsFollowTheDistribution) {
  std::cout << "seed " << kSeed << "\n";
  std::mt19937 random(kSeed + 6);
  const std::vector<float> logits = RandomLogits(random, 30, 0.5f);
  for (SampleRow row :
       {SampleRow{.temperature = 2.0f, .seed = kSeed},
        SampleRow{.temperature = 2.5f, .top_k = 12, .top_p = 0.9f, .seed = kSeed}}) {
    const std::vector<int32_t> kept = ReferenceCut(logits, row);
    std::map<int32_t, double> expected;
    double total = 0;
    constexpr int kDraws = 20000;
    for (const int32_t id : kept) total += expected[id] = std::exp(logits[id] / row.temperature);
    std::map<int32_t, int> seen;
    for (int batch = 0; batch < kDraws / 500; ++batch) {
      std::vector<SampleRow> rows;
      for (int i = 0; i < 500; ++i, ++row.position) rows.push_back(row);
      for (const int32_t token : SampleSharded(Matrix(500, logits), rows, 2).tokens) ++seen[token];
    }
    double chi_square = 0;
    for (auto& [id, share] : expected) {
      share *= kDraws / total;
      chi_square += (seen[id] - share) * (seen[id] - share) / share;
      EXPECT_GT(share, 5.0) << "the test needs more draws";
    }
    EXPECT_EQ(seen.size(), expected.size());
    // Mean k - 1, standard deviation sqrt(2 (k - 1)); six of them.
    const double freedom = static_cast<double>(expected.size()) - 1;
    EXPECT_LT(chi_square, freedom + 6 * std::sqrt(2 * freedom));
    EXPECT_GT(chi_square, freedom - 6 * std::sqrt(2 * freedom));
  }
}

}  // namespace
}  // namespace tessera
