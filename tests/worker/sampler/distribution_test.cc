// Ten million draws follow the distributions that they promise: chi-square at one in a thousand on
// either side, from fixed seeds. Ten times as many in the long form.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <vector>

#include "ranks.h"
#include "reference.h"

namespace tessera {
namespace {

constexpr uint64_t kDrawSeed = 20;
constexpr int kBatchRows = 4096;  // of one call

int64_t DrawScale() { return std::min(TestScale(), 10); }

// How far a chi-square value lies from its mean, in standard deviations of a normal variate
// (Wilson and Hilferty's cube root, good from a few degrees of freedom on).
double NormalOfChiSquare(double chi_square, double freedom) {
  const double spread = 2.0 / (9.0 * freedom);
  return (std::cbrt(chi_square / freedom) - (1.0 - spread)) / std::sqrt(spread);
}

// p > 0.001 on either side: neither a bad fit nor one too good to be random.
void ExpectFits(const std::vector<double>& seen, const std::vector<double>& shares) {
  double draws = 0;
  double total = 0;
  for (size_t i = 0; i < seen.size(); ++i) draws += seen[i], total += shares[i];
  double chi_square = 0;
  double freedom = -1;
  for (size_t i = 0; i < seen.size(); ++i) {
    const double want = draws * shares[i] / total;
    if (want == 0) {
      EXPECT_EQ(seen[i], 0) << "cell " << i << " has no probability";
      continue;
    }
    ASSERT_GT(want, 20.0) << "cell " << i << " needs more draws";
    chi_square += (seen[i] - want) * (seen[i] - want) / want;
    ++freedom;
  }
  ASSERT_GE(freedom, 4);
  const double normal = NormalOfChiSquare(chi_square, freedom);
  std::cout << draws << " draws, chi-square " << chi_square << " of " << freedom
            << " degrees, normal " << normal << "\n";
  EXPECT_LT(std::fabs(normal), 3.29);
}

// Draws rows of one row of logits, `draws` in all, and hands every call's tokens to `take`. `vary`
// makes row i of all.
void DrawMany(const std::vector<float>& logits, int shards, int64_t draws,
              const std::function<SampleRow(int64_t)>& vary,
              const std::function<void(const std::vector<int32_t>&)>& take) {
  const int64_t vocab = static_cast<int64_t>(logits.size());
  RunRanks(shards, vocab, [&](RankOfTest& rank) {
    std::vector<float> shard = ShardOf({logits}, rank);
    Sampler sampler(rank.ops, rank.comm, rank.begin, vocab);
    std::vector<SampleRow> rows;
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < draws;) {
      for (rows.clear(); rows.size() < kBatchRows; ++i) rows.push_back(vary(i));
      ASSERT_TRUE(sampler.Sample(ExecContext(), tokens, ViewOf(shard, 1), rows).ok());
      if (rank.comm.rank() == 0) take(tokens);
    }
  });
}

// Probabilities of what the reference's cut leaves, not normed.
std::vector<double> Shares(const std::vector<float>& logits, const SampleRow& row) {
  std::vector<double> shares(logits.size(), 0.0);
  for (const int32_t id : ReferenceCut(logits, row)) {
    shares[id] = std::exp(static_cast<double>(logits[id]) / row.temperature);
  }
  return shares;
}

struct Distribution {
  const char* name;
  int shards;
  int64_t draws;
  SampleRow row;
  float step;       // of the logits
  bool with_rules;  // penalties, a bias and a ban
};

const Distribution kDistributions[] = {
    {"flat", 1, 1'500'000, {.temperature = 1e4f}, 0.0f, false},
    {"softmax", 1, 3'000'000, {.temperature = 2.0f}, 0.0f, false},
    {"softmax_sharded", 4, 1'500'000, {.temperature = 2.5f}, 0.5f, false},
    {"top_k_of_ties", 2, 1'000'000, {.temperature = 2.0f, .top_k = 13}, 2.0f, false},
    {"top_p", 1, 1'000'000, {.temperature = 2.0f, .top_p = 0.9f}, 0.5f, false},
    {"min_p", 1, 1'000'000, {.temperature = 2.0f, .min_p = 0.05f}, 0.5f, false},
    {"rules", 1, 1'000'000, {.temperature = 3.0f, .top_k = 20, .min_p = 0.01f}, 0.5f, true},
};

TEST(DistributionTest, TenMillionDrawsFollowTheirDistributions) {
  std::cout << "seed " << kDrawSeed << "\n";
  std::mt19937 random(kDrawSeed);
  RuleCase rule_case;
  rule_case.params = {.logit_bias = {{3, 2.0f}, {9, -1.0f}},
                      .banned = {5},
                      .repetition_penalty = 1.2f,
                      .frequency_penalty = 0.4f,
                      .presence_penalty = 0.3f};
  rule_case.prompt = {1, 2, 3, 3};
  rule_case.output = {2, 2, 7, 11, 7};
  const TokenRules rules = RulesOf(rule_case);
  for (const Distribution& d : kDistributions) {
    SCOPED_TRACE(d.name);
    const std::vector<float> logits = RandomLogits(random, 30, d.step);
    std::vector<double> seen(logits.size(), 0.0);
    // Seed, position and choice all vary.
    const auto vary = [&](int64_t i) {
      SampleRow row = d.row;
      row.seed = kDrawSeed + static_cast<uint64_t>(i % 7) * 0x9e3779b97f4a7c15u;
      row.position = static_cast<uint32_t>(i / 7 / 3);
      row.choice = static_cast<uint32_t>(i / 7 % 3);
      row.rules = d.with_rules ? &rules : nullptr;
      return row;
    };
    DrawMany(logits, d.shards, d.draws * DrawScale(), vary,
             [&](const std::vector<int32_t>& tokens) {
               for (const int32_t token : tokens) ++seen.at(token);
             });
    ExpectFits(seen, Shares(d.with_rules ? ReferenceRules(logits, rule_case) : logits, d.row));
  }
}

// Draws that differ in one counter only are independent: pairs of tokens follow the product.
TEST(DistributionTest, NeighbouringDrawsAreIndependent) {
  const std::vector<float> logits = {0.0f, 0.5f, -0.5f, 1.0f, 0.2f};
  const std::vector<double> shares = Shares(logits, {.temperature = 1.0f});
  std::vector<double> product;
  for (const double a : shares) {
    for (const double b : shares) product.push_back(a * b);
  }
  using Vary = std::function<SampleRow(int64_t)>;
  const Vary by_choice = [](int64_t i) {
    return SampleRow{.temperature = 1.0f,
                     .seed = kDrawSeed,
                     .position = static_cast<uint32_t>(i / 2),
                     .choice = static_cast<uint32_t>(i % 2)};
  };
  const Vary by_position = [](int64_t i) {
    return SampleRow{
        .temperature = 1.0f, .seed = kDrawSeed + 1, .position = static_cast<uint32_t>(i)};
  };
  const Vary by_seed = [](int64_t i) {
    return SampleRow{.temperature = 1.0f, .seed = static_cast<uint64_t>(i), .position = 77};
  };
  for (const Vary& vary : {by_choice, by_position, by_seed}) {
    std::vector<double> seen(product.size(), 0.0);
    DrawMany(logits, 1, 200'000 * DrawScale(), vary, [&](const std::vector<int32_t>& tokens) {
      for (size_t i = 0; i < tokens.size(); i += 2) ++seen.at(tokens[i] * 5 + tokens[i + 1]);
    });
    ExpectFits(seen, product);
  }
}

}  // namespace
}  // namespace tessera
