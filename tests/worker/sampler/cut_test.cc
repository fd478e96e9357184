// Which tokens a cut leaves, as sets: top-k, top-p, min-p and all their combinations on random
// logits with many ties, against sorting; the same for every number of shards.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iostream>

#include "ranks.h"
#include "reference.h"

namespace tessera {
namespace {

constexpr uint32_t kCutSeed = 9001;

TEST(CutTest, WhatStaysEqualsSorting) {
  std::cout << "seed " << kCutSeed << "\n";
  std::mt19937 random(kCutSeed);
  const std::array<uint32_t, 6> top_ks = {0, 2, 3, 17, 60, 500};
  const std::array<float, 6> top_ps = {1.0f, 0.0f, 0.2f, 0.5f, 0.9f, 0.99f};
  const std::array<float, 6> min_ps = {0.0f, 0.001f, 0.02f, 0.1f, 0.5f, 1.0f};
  int64_t cut_through_ties = 0;
  for (int round = 0; round < 8 * TestScale(); ++round) {
    const float step = std::array{0.0f, 0.125f, 0.5f, 2.0f}[round % 4];
    Matrix logits;
    std::vector<SampleRow> rows;
    for (const uint32_t top_k : top_ks) {
      for (const float top_p : top_ps) {
        for (const float min_p : min_ps) {
          if (top_k == 0 && top_p == 1.0f && min_p == 0.0f) continue;
          logits.push_back(RandomLogits(random, 517, step));
          rows.push_back({.temperature = std::array{0.5f, 1.0f, 2.3f}[random() % 3],
                          .top_k = top_k,
                          .top_p = top_p,
                          .min_p = min_p,
                          .logits_row = static_cast<int32_t>(rows.size())});
        }
      }
    }
    std::vector<std::vector<int32_t>> expected;
    for (size_t r = 0; r < rows.size(); ++r) {
      expected.push_back(ReferenceCut(logits[r], rows[r]));
      const int32_t last = expected[r].back();
      for (int32_t i = last + 1; i < 517; ++i) {
        cut_through_ties += logits[r][i] == logits[r][last];
      }
      std::sort(expected[r].begin(), expected[r].end());
    }
    for (const int shards : {1, 2, 4, 8}) {
      const auto kept = KeptSets(logits, rows, shards);
      for (size_t r = 0; r < rows.size(); ++r) {
        ASSERT_EQ(kept[r], expected[r])
            << "round " << round << " shards " << shards << " temperature " << rows[r].temperature
            << " top_k " << rows[r].top_k << " top_p " << rows[r].top_p << " min_p "
            << rows[r].min_p;
      }
    }
  }
  EXPECT_GT(cut_through_ties, 1000) << "too few cuts between equal logits to mean anything";
}

// Rows that share logits share a search where they ask for the same cut, and nowhere else.
TEST(CutTest, RowsOnTheSameLogitsHaveTheirOwnCuts) {
  std::mt19937 random(kCutSeed + 1);
  const Matrix logits = {RandomLogits(random, 211, 0.5f), RandomLogits(random, 211, 0.5f)};
  const SampleRow base{.temperature = 1.0f, .top_k = 40, .top_p = 0.8f, .min_p = 0.01f};
  std::vector<SampleRow> rows;
  for (int i = 0; i < 6; ++i) {
    rows.push_back(base);
    SampleRow other = base;
    if (i == 0) other.temperature = 2.0f;
    if (i == 1) other.top_k = 3;
    if (i == 2) other.top_p = 0.3f;
    if (i == 3) other.min_p = 0.3f;
    if (i == 4) other.logits_row = 1;
    rows.push_back(other);  // at 5 the same again
  }
  for (const int shards : {1, 4}) {
    const auto kept = KeptSets(logits, rows, shards);
    for (size_t r = 0; r < rows.size(); ++r) {
      std::vector<int32_t> expected = ReferenceCut(logits[rows[r].logits_row], rows[r]);
      std::sort(expected.begin(), expected.end());
      EXPECT_EQ(kept[r], expected) << "row " << r << " shards " << shards;
    }
  }
}

// The smallest float at or above maximum + temperature * log(min_p) is kept, the next one under it
// is not.
TEST(CutTest, MinPIsExactAtItsThreshold) {
  const float min_p = 0x1p-8f;
  const double threshold = 2.0 + 0.75 * std::log(static_cast<double>(min_p));
  float at = static_cast<float>(threshold);
  if (at < threshold) at = std::nextafter(at, kInfinity);
  const float under = std::nextafter(at, -kInfinity);
  const Matrix logits = {{under, at, 2.0f, at, under, 0.0f, -kInfinity, kNaN}};
  const SampleRow row{.temperature = 0.75f, .min_p = min_p};
  for (const int shards : {1, 2, 4, 8}) {
    EXPECT_EQ(KeptSets(logits, {row}, shards)[0], (std::vector<int32_t>{1, 2, 3, 5})) << shards;
  }
}

}  // namespace
}  // namespace tessera
