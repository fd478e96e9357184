// The sampler against the sorting reference: many ties, every kind of row and rule mixed, 1 to 8
// shards; choices that share logits; what it does with broken logits; how many collectives it
// needs.

#include "worker/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iostream>
#include <map>
#include <random>
#include <set>

#include "ranks.h"
#include "reference.h"

namespace tessera {
namespace {

constexpr uint32_t kSeed = 4711;

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
    rows = EachItsOwn(rows);
    for (const int shards : {1, 2, 4, 8}) {
      const Outcome outcome = SampleSharded(logits, rows, shards);
      for (size_t r = 0; r < rows.size(); ++r) {
        EXPECT_EQ(outcome.tokens[r], ReferenceSample(logits[r], rows[r]))
            << "round " << round << " row " << r << " shards " << shards << " temperature "
            << rows[r].temperature << " top_k " << rows[r].top_k << " top_p " << rows[r].top_p
            << " min_p " << rows[r].min_p;
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
    for (const int shards : {1, 2, 4, 8}) {
      const std::vector<int32_t> tokens = SampleSharded({flat}, rows, shards).tokens;
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
  std::vector<TokenRules> rules;
  rules.reserve(24);
  for (uint32_t r = 0; r < 24; ++r) {
    logits.push_back(RandomLogits(random, 257, 0.5f));
    rows.push_back(RandomRow(random, r));
    rules.push_back(RulesOf(RandomRules(random, 257)));
    if (r % 3 > 0) rows.back().rules = &rules.back();
  }
  const std::vector<int32_t> together = SampleSharded(logits, EachItsOwn(rows), 2).tokens;
  for (size_t r = 0; r < rows.size(); ++r) {
    EXPECT_EQ(SampleSharded({logits[r]}, {rows[r]}, 2).tokens[0], together[r]) << r;
  }
}

TEST(SamplerTest, RulesAreAppliedOnEveryShardCount) {
  std::cout << "seed " << kSeed + 8 << "\n";
  std::mt19937 random(kSeed + 8);
  int changed = 0;
  for (int round = 0; round < 10 * TestScale(); ++round) {
    Matrix logits;
    std::vector<SampleRow> rows;
    std::vector<TokenRules> rules;
    std::vector<int32_t> expected;
    rules.reserve(30);
    for (uint32_t r = 0; r < 30; ++r) {
      logits.push_back(RandomLogits(random, 203, round % 2 == 0 ? 0.0f : 0.5f));
      rows.push_back(RandomRow(random, r));
      const RuleCase c = RandomRules(random, 203);
      rules.push_back(RulesOf(c));
      rows.back().rules = &rules.back();
      expected.push_back(ReferenceSample(ReferenceRules(logits[r], c), rows[r]));
      changed += expected.back() != ReferenceSample(logits[r], rows[r]);
    }
    for (const int shards : {1, 2, 4, 8}) {
      EXPECT_EQ(SampleSharded(logits, EachItsOwn(rows), shards).tokens, expected)
          << "round " << round << " shards " << shards;
    }
  }
  EXPECT_GT(changed, 50) << "the rules do not show in the tokens";
}

// Choices share a row of logits: as if each had its own copy, with or without rules of its own.
TEST(SamplerTest, ChoicesDrawFromOneRowOfLogits) {
  std::cout << "seed " << kSeed + 9 << "\n";
  std::mt19937 random(kSeed + 9);
  constexpr int kLogits = 7;
  Matrix logits;
  std::vector<RuleCase> cases;
  std::vector<TokenRules> rules;
  for (int i = 0; i < kLogits; ++i) {
    logits.push_back(RandomLogits(random, 130, 0.5f));
    cases.push_back(RandomRules(random, 130));
    rules.push_back(RulesOf(cases.back()));
  }
  std::vector<SampleRow> rows;
  std::vector<int32_t> expected;
  for (uint32_t r = 0; r < 120; ++r) {
    SampleRow row = RandomRow(random, r);
    // Runs of choices that differ in nothing else, and strangers between them.
    if (r % 4 != 0) row = rows.back();
    row.choice = r;
    if (r % 4 == 0) row.logits_row = static_cast<int32_t>(random() % kLogits);
    const uint32_t ruled = random() % 8;
    row.rules = ruled < kLogits ? &rules[ruled] : nullptr;
    rows.push_back(row);
    const std::vector<float>& raw = logits[row.logits_row];
    expected.push_back(
        ReferenceSample(row.rules == nullptr ? raw : ReferenceRules(raw, cases[ruled]), row));
  }
  for (const int shards : {1, 2, 8}) {
    EXPECT_EQ(SampleSharded(logits, rows, shards).tokens, expected) << shards;
  }
}

TEST(SamplerTest, AllowedListsBeyondOnePassAreKept) {
  std::mt19937 random(kSeed + 10);
  constexpr int kRows = 2 * Sampler::kMasksMax + 3;
  Matrix logits;
  std::vector<SampleRow> rows;
  std::vector<TokenRules> rules;
  for (int i = 0; i < kRows; ++i) {
    logits.push_back(RandomLogits(random, 70, 0.0f));
    rules.push_back(TokenRules({.allowed = {(i * 7) % 70}}));
  }
  for (int i = 0; i < kRows; ++i) {
    rows.push_back({.temperature = i % 2 == 0 ? 0.0f : 1.0f, .rules = &rules[i]});
  }
  const Outcome outcome = SampleSharded(logits, EachItsOwn(rows), 2);
  for (int i = 0; i < kRows; ++i) EXPECT_EQ(outcome.tokens[i], (i * 7) % 70);
  EXPECT_EQ(outcome.gathers, 3 * 2);
}

TEST(SamplerTest, WhereAllIsBannedThereIsNoToken) {
  std::vector<int32_t> all(64);
  for (int32_t i = 0; i < 64; ++i) all[i] = i;
  std::mt19937 random(kSeed + 11);
  const std::vector<float> logits = RandomLogits(random, 64, 0.0f);
  const TokenRules banned({.banned = all});
  const TokenRules contradiction({.allowed = {5}, .banned = {5}});
  for (const TokenRules* rules : {&banned, &contradiction}) {
    for (SampleRow row :
         {SampleRow{}, SampleRow{.temperature = 1.0f},
          SampleRow{.temperature = 1.0f, .top_k = 5, .top_p = 0.5f, .min_p = 0.1f}}) {
      row.rules = rules;
      EXPECT_EQ(SampleSharded({logits}, {row}, 2).tokens[0], Sampler::kNoToken);
    }
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
  const std::vector<int32_t> tokens = SampleSharded({logits}, rows, 1).tokens;
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
    const std::vector<SampleRow> rows = EachItsOwn(std::vector<SampleRow>(logits.size(), row));
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
  EXPECT_EQ(sample({.temperature = 1.0f, .min_p = 1.0f}), best);
  EXPECT_EQ(sample({.temperature = 1.0f, .min_p = kInfinity}), best);
  const SampleRow plain{.temperature = 1.0f, .seed = 9};
  EXPECT_EQ(sample({.temperature = 1.0f, .min_p = kNaN, .seed = 9}), sample(plain));
  EXPECT_EQ(sample({.temperature = 1.0f, .min_p = -1.0f, .seed = 9}), sample(plain));
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
  const SampleRow min_p{.temperature = 1.0f, .min_p = 0.1f};
  const auto gathers = [&](const std::vector<SampleRow>& rows) {
    return SampleSharded(Matrix(rows.size(), logits), EachItsOwn(rows), 2).gathers;
  };
  EXPECT_EQ(gathers({}), 0);
  EXPECT_EQ(gathers({greedy, greedy}), 1);
  EXPECT_EQ(gathers({drawn, drawn}), 1);
  EXPECT_EQ(gathers({greedy, drawn}), 2);
  EXPECT_EQ(gathers({min_p, drawn}), 2);
  EXPECT_EQ(gathers({top_k, top_p, greedy}), 6);
  EXPECT_EQ(gathers({both, top_p, drawn, greedy}), 9);
}

}  // namespace
}  // namespace tessera
