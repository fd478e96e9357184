// Token rules against looking through all lists for every token: equal bits, and nothing is touched
// that no rule mentions.

#include "worker/token_rules.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <set>

#include "ranks.h"
#include "reference.h"

namespace tessera {
namespace {

constexpr uint32_t kRulesSeed = 5150;

TEST(TokenRulesTest, EqualTheNaiveReferenceBitForBit) {
  std::cout << "seed " << kRulesSeed << "\n";
  std::mt19937 random(kRulesSeed);
  for (int round = 0; round < 2000 * TestScale(); ++round) {
    const int32_t vocab = 1 + static_cast<int32_t>(random() % 60);
    const RuleCase rules = RandomRules(random, vocab);
    std::vector<float> logits = RandomLogits(random, static_cast<size_t>(vocab), 0.0f);
    logits[0] = 0.0f;
    const std::vector<float> expected = ReferenceRules(logits, rules);
    const TokenRules made = RulesOf(rules);
    std::vector<int32_t> touched;
    const int32_t border = static_cast<int32_t>(random() % (vocab + 1));  // of two shards
    made.AppendTouched(0, border, touched);
    for (const int32_t token : touched) EXPECT_LT(token, border);
    made.AppendTouched(border, vocab, touched);
    EXPECT_EQ(std::set<int32_t>(touched.begin(), touched.end()).size(), touched.size());
    for (const int32_t token : touched) logits[token] = made.Apply(token, logits[token]);
    const std::vector<int32_t>& allowed = made.allowed();
    ASSERT_TRUE(std::is_sorted(allowed.begin(), allowed.end()));
    for (int32_t token = 0; token < vocab && !allowed.empty(); ++token) {
      if (!std::binary_search(allowed.begin(), allowed.end(), token)) logits[token] = -kInfinity;
    }
    ASSERT_EQ(logits, expected) << "round " << round;
  }
}

TEST(TokenRulesTest, MinTokensEndWithTheirNumber) {
  TokenRules rules({.min_tokens = 2, .min_tokens_banned = {7}});
  rules.AddPrompt(1);
  for (const bool banned : {true, true, false, false}) {
    EXPECT_EQ(rules.Apply(7, 1.0f), banned ? -kInfinity : 1.0f);
    std::vector<int32_t> touched;
    rules.AppendTouched(0, 10, touched);
    EXPECT_EQ(touched.size(), banned ? 1u : 0u);
    rules.AddOutput(3);
  }
}

TEST(TokenRulesTest, KnowsWhetherThereIsAnyRule) {
  EXPECT_FALSE(TokenRules::Any({}));
  EXPECT_FALSE(TokenRules::Any({.repetition_penalty = 0.0f}));
  EXPECT_FALSE(TokenRules::Any({.min_tokens = 5}));
  EXPECT_TRUE(TokenRules::Any({.logit_bias = {{1, 2.0f}}}));
  EXPECT_TRUE(TokenRules::Any({.allowed = {1}}));
  EXPECT_TRUE(TokenRules::Any({.banned = {1}}));
  EXPECT_TRUE(TokenRules::Any({.min_tokens = 5, .min_tokens_banned = {1}}));
  EXPECT_TRUE(TokenRules::Any({.repetition_penalty = 1.1f}));
  EXPECT_TRUE(TokenRules::Any({.frequency_penalty = -0.1f}));
  EXPECT_TRUE(TokenRules::Any({.presence_penalty = 0.1f}));
}

}  // namespace
}  // namespace tessera
