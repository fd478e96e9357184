// Rules, cuts and log probabilities against Hugging Face transformers, see
// tests/golden/sampling/generate.py.

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "ranks.h"
#include "reference.h"
#include "worker/scorer.h"

namespace tessera {
namespace {

std::vector<nlohmann::json> SamplingCases() {
  std::ifstream file(std::string(TESSERA_SOURCE_DIR) + "/tests/golden/sampling/golden.json");
  return nlohmann::json::parse(file).at("cases").get<std::vector<nlohmann::json>>();
}

TEST(SamplingGoldenTest, RulesGiveTheSameBits) {
  int changed = 0;
  for (const nlohmann::json& c : SamplingCases()) {
    const auto logits = c.at("logits").get<std::vector<float>>();
    const auto ruled = c.at("ruled").get<std::vector<float>>();
    RuleCase rules;
    for (const auto& bias : c.at("logit_bias")) {
      rules.params.logit_bias.emplace_back(bias.at(0), bias.at(1));
    }
    rules.params.repetition_penalty = c.at("repetition_penalty");
    rules.params.frequency_penalty = c.at("frequency_penalty");
    rules.params.presence_penalty = c.at("presence_penalty");
    rules.prompt = c.at("prompt").get<std::vector<int32_t>>();
    rules.output = c.at("output").get<std::vector<int32_t>>();
    const TokenRules made = RulesOf(rules);
    std::vector<int32_t> touched;
    made.AppendTouched(0, static_cast<int64_t>(logits.size()), touched);
    std::vector<float> got = logits;
    for (const int32_t token : touched) got[token] = made.Apply(token, got[token]);
    EXPECT_EQ(got, ruled);
    changed += got != logits;
  }
  EXPECT_GT(changed, 20);
}

TEST(SamplingGoldenTest, CutsLeaveTheSameTokens) {
  std::set<size_t> sizes;
  for (const nlohmann::json& c : SamplingCases()) {
    const Matrix ruled = {c.at("ruled").get<std::vector<float>>()};
    const SampleRow row{.temperature = c.at("temperature"),
                        .top_k = c.at("top_k"),
                        .top_p = c.at("top_p"),
                        .min_p = c.at("min_p")};
    const auto expected = c.at("kept").get<std::vector<int32_t>>();
    sizes.insert(expected.size());
    const bool cuts = row.top_k > 0 || row.top_p < 1 || row.min_p > 0;
    if (!cuts) continue;
    for (const int shards : {1, 4}) {
      EXPECT_EQ(KeptSets(ruled, {row}, shards)[0], expected)
          << "temperature " << row.temperature << " top_k " << row.top_k << " top_p " << row.top_p
          << " min_p " << row.min_p;
    }
  }
  EXPECT_GT(sizes.size(), 6u) << "too little variety";
}

TEST(SamplingGoldenTest, LogProbabilitiesAreTheSame) {
  int compared = 0;
  for (const nlohmann::json& c : SamplingCases()) {
    std::vector<float> logits = c.at("logits").get<std::vector<float>>();
    const auto top_tokens = c.at("top_tokens").get<std::vector<int32_t>>();
    const auto top_logprobs = c.at("top_logprobs").get<std::vector<float>>();
    RunRanks(1, static_cast<int64_t>(logits.size()), [&](RankOfTest& rank) {
      Scores scores;
      const std::vector<ScoreRow> rows = {
          {.token = top_tokens[3], .top = static_cast<uint32_t>(top_tokens.size())}};
      ASSERT_TRUE(Scorer(rank.ops, rank.comm, 0)
                      .Score(ExecContext(), scores, ViewOf(logits, 1), rows)
                      .ok());
      EXPECT_EQ(scores.top_tokens, top_tokens);
      compared += static_cast<int>(scores.top_logprobs.size());
      for (size_t i = 0; i < top_tokens.size(); ++i) {
        EXPECT_NEAR(scores.top_logprobs[i], top_logprobs[i], 2e-6) << "place " << i;
      }
      EXPECT_EQ(scores.logprobs[0], scores.top_logprobs[3]);
    });
  }
  EXPECT_GT(compared, 200);
}

}  // namespace
}  // namespace tessera
