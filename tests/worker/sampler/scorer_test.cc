// Log probabilities against a plain softmax in double; equal bits for every number of shards and
// whatever else is scored; what broken logits give.

#include "worker/scorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>

#include "ranks.h"

namespace tessera {
namespace {

constexpr uint32_t kScoreSeed = 31337;

struct Scored {
  Scores scores;
  int gathers = 0;
};

void ExpectSameBits(const Scores& a, const Scores& b) {
  const auto same = [](const std::vector<float>& x, const std::vector<float>& y) {
    return x.size() == y.size() &&
           (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0);
  };
  EXPECT_TRUE(same(a.logprobs, b.logprobs));
  EXPECT_TRUE(same(a.top_logprobs, b.top_logprobs));
  EXPECT_EQ(a.top_tokens, b.top_tokens);
  EXPECT_EQ(a.num_top, b.num_top);
}

Scored ScoreSharded(const Matrix& logits, const std::vector<ScoreRow>& rows, int shards) {
  const int64_t vocab = static_cast<int64_t>(logits[0].size());
  std::vector<Scored> scored(shards);
  RunRanks(shards, vocab, [&](RankOfTest& rank) {
    std::vector<float> shard = ShardOf(logits, rank);
    Scored& mine = scored[rank.comm.rank()];
    const absl::Status status =
        Scorer(rank.ops, rank.comm, rank.begin)
            .Score(ExecContext(), mine.scores, ViewOf(shard, logits.size()), rows);
    EXPECT_TRUE(status.ok()) << status;
    mine.gathers = rank.comm.gathers();
  });
  for (const Scored& one : scored) {
    ExpectSameBits(one.scores, scored[0].scores);
    EXPECT_EQ(one.gathers, scored[0].gathers);
  }
  return scored[0];
}

// Ids, most likely first, lower id first among equals; those without a number left out.
std::vector<int32_t> Ranked(const std::vector<float>& logits) {
  std::vector<int32_t> order;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > -kInfinity) order.push_back(static_cast<int32_t>(i));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  return order;
}

double LogSoftmax(const std::vector<float>& logits, int32_t token) {
  if (!(logits[token] > -kInfinity)) return -kInfinity;
  const double maximum = logits[Ranked(logits)[0]];
  double sum = 0;
  for (const float x : logits) sum += std::isnan(x) ? 0 : std::exp(x - maximum);
  return logits[token] - maximum - std::log(sum);
}

TEST(ScorerTest, EqualsThePlainSoftmaxWithEqualBitsOnEveryShardCount) {
  std::cout << "seed " << kScoreSeed << "\n";
  std::mt19937 random(kScoreSeed);
  for (int round = 0; round < 6 * TestScale(); ++round) {
    const float step = round % 2 == 0 ? 0.0f : 1.0f;
    const size_t vocab = round % 3 == 0 ? 11 : 1511;
    Matrix logits;
    for (int i = 0; i < 9; ++i) {
      logits.push_back(RandomLogits(random, vocab, step));
      for (int odd = 0; odd < i; ++odd) {
        logits.back()[random() % vocab] = odd % 2 == 0 ? kNaN : -kInfinity;
      }
    }
    std::vector<ScoreRow> rows;
    for (int r = 0; r < 40; ++r) {
      rows.push_back({.logits_row = static_cast<int32_t>(random() % logits.size()),
                      .token = static_cast<int32_t>(random() % vocab),
                      .top = r % 3 == 0 ? 0 : static_cast<uint32_t>(random() % 21)});
    }
    const Scored whole = ScoreSharded(logits, rows, 1);
    EXPECT_EQ(whole.gathers, 2);
    size_t at = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      const std::vector<float>& x = logits[rows[r].logits_row];
      const double want = LogSoftmax(x, rows[r].token);
      if (std::isinf(want)) {
        EXPECT_EQ(whole.scores.logprobs[r], -kInfinity);
      } else {
        EXPECT_NEAR(whole.scores.logprobs[r], want, 1e-6 + 2e-7 * std::fabs(want));
      }
      const std::vector<int32_t> order = Ranked(x);
      ASSERT_EQ(whole.scores.num_top[r], std::min<size_t>(rows[r].top, order.size()));
      for (uint32_t i = 0; i < whole.scores.num_top[r]; ++i, ++at) {
        ASSERT_EQ(whole.scores.top_tokens[at], order[i]) << "row " << r << " place " << i;
        const double top = LogSoftmax(x, order[i]);
        ASSERT_NEAR(whole.scores.top_logprobs[at], top, 1e-6 + 2e-7 * std::fabs(top));
      }
    }
    EXPECT_EQ(at, whole.scores.top_tokens.size());
    for (const int shards : {2, 4, 8}) {
      ExpectSameBits(ScoreSharded(logits, rows, shards).scores, whole.scores);
    }
    // Each row alone: the same as in company.
    at = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      const Scores alone = ScoreSharded(logits, {rows[r]}, 1).scores;
      Scores part;
      const size_t end = at + whole.scores.num_top[r];
      part.logprobs = {whole.scores.logprobs[r]};
      part.num_top = {whole.scores.num_top[r]};
      part.top_tokens.assign(whole.scores.top_tokens.begin() + at,
                             whole.scores.top_tokens.begin() + end);
      part.top_logprobs.assign(whole.scores.top_logprobs.begin() + at,
                               whole.scores.top_logprobs.begin() + end);
      ExpectSameBits(alone, part);
      at = end;
    }
  }
}

TEST(ScorerTest, BrokenLogitsGiveDefinedScores) {
  const Matrix logits = {
      std::vector<float>(8, kNaN),
      std::vector<float>(8, -kInfinity),
      {0, kInfinity, 1, kInfinity, -kInfinity, kNaN, 2, 3},
      {-kInfinity, -kInfinity, -kInfinity, 5, kNaN, kNaN, kNaN, kNaN},
  };
  const std::vector<ScoreRow> rows = {{0, 3, 5},  {1, 3, 5},
                                      {2, 3, 3},  {2, 0, 0},
                                      {2, 5, 0},  {3, 3, 5},
                                      {3, 0, 0},  {3, Sampler::kNoToken, 1},
                                      {2, -7, 0}, {0, Sampler::kNoToken, 0}};
  for (const int shards : {1, 2, 4, 8}) {
    const Scores scores = ScoreSharded(logits, rows, shards).scores;
    const float half = static_cast<float>(-std::log(2.0));
    EXPECT_THAT(scores.logprobs,
                testing::ElementsAre(-kInfinity, -kInfinity, half, -kInfinity, -kInfinity, 0.0f,
                                     -kInfinity, -kInfinity, -kInfinity, -kInfinity));
    EXPECT_THAT(scores.num_top, testing::ElementsAre(0, 0, 2, 0, 0, 1, 0, 1, 0, 0));
    EXPECT_THAT(scores.top_tokens, testing::ElementsAre(1, 3, 3, 3));
    EXPECT_THAT(scores.top_logprobs, testing::ElementsAre(half, half, 0.0f, 0.0f));
  }
}

// Probabilities of a large vocabulary add up to one: no mass is lost to rounding.
TEST(ScorerTest, ProbabilitiesOfALargeVocabularyAddUp) {
  std::mt19937 random(kScoreSeed + 1);
  const std::vector<float> logits = RandomLogits(random, 131072, 0.0f);
  std::vector<ScoreRow> rows(logits.size());
  for (size_t i = 0; i < rows.size(); ++i) rows[i].token = static_cast<int32_t>(i);
  double sum = 0;
  for (const float logprob : ScoreSharded({logits}, rows, 2).scores.logprobs) {
    sum += std::exp(static_cast<double>(logprob));
  }
  EXPECT_NEAR(sum, 1.0, 1e-6);
}

TEST(ScorerTest, NothingToScoreNeedsNoCollective) {
  EXPECT_EQ(ScoreSharded({std::vector<float>(8)}, {}, 2).gathers, 0);
}

}  // namespace
}  // namespace tessera
