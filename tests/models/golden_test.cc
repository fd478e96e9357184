// The goldens of tests/golden/models: they open, their tensors are those of the table, and the
// numbers that need no forward pass agree with the reference. The forward pass is compared by the
// worker's tests.

#include "tests/golden/models/golden.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "models/checkpoint.h"
#include "models/model_spec.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

class ModelGolden : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto golden = golden::Read(GetParam());
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = *std::move(golden);
    auto checkpoint = Checkpoint::Open(golden_.model_dir);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    auto spec = ParseModelSpec(checkpoint_->config_json());
    ASSERT_TRUE(spec.ok()) << spec.status();
    spec_ = *std::move(spec);
  }

  golden::Golden golden_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelSpec spec_;
};

TEST_P(ModelGolden, TensorsAndParameters) {
  const absl::Status status = CheckTensors(spec_, *checkpoint_);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(ParameterCount(spec_), golden_.parameters);
  for (const int tp : golden_.tp) EXPECT_TRUE(CheckTensorParallel(spec_, tp).ok()) << tp;
}

TEST_P(ModelGolden, RopeFrequencies) {
  const std::vector<float> ours = RopeInverseFrequencies(spec_);
  ASSERT_EQ(ours.size(), golden_.inverse_frequencies.size());
  const auto worst = [&](const std::vector<float>& frequencies) {
    double difference = 0;
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const double reference = golden_.inverse_frequencies[i];
      difference = std::max(difference, std::abs(frequencies[i] - reference) / reference);
    }
    return difference;
  };
  EXPECT_LT(worst(ours), 1e-6);  // the reference computes in float32
  if (spec_.rope_scaling.kind == RopeScaling::Kind::kNone) return;
  ModelSpec plain = spec_;
  plain.rope_scaling = RopeScaling();
  EXPECT_GT(worst(RopeInverseFrequencies(plain)), 0.5);
}

TEST_P(ModelGolden, FeaturesAreInTheConfig) {
  EXPECT_EQ(golden_.Has("rope_llama3"), spec_.rope_scaling.kind == RopeScaling::Kind::kLlama3);
  EXPECT_EQ(golden_.Has("rope_linear"), spec_.rope_scaling.kind == RopeScaling::Kind::kLinear);
  EXPECT_EQ(golden_.Has("gqa"), spec_.num_kv_heads < spec_.num_heads);
  EXPECT_EQ(golden_.Has("tied_head"), spec_.tied_head);
  EXPECT_EQ(golden_.Has("attention_bias"), spec_.qkv_bias && spec_.output_bias);
  EXPECT_EQ(golden_.Has("mlp_bias"), spec_.mlp_bias);
}

TEST_P(ModelGolden, IsAGoodWitness) {
  if (!golden_.Has("demo")) {
    EXPECT_LT(golden_.entropy_ratio, 0.5);
  }
  EXPECT_EQ(golden_.fp32_tolerance, 1e-4);
  int64_t longest = 0;
  for (const golden::Prompt& prompt : golden_.prompts) {
    const int64_t length = static_cast<int64_t>(prompt.tokens.size());
    longest = std::max(longest, length);
    EXPECT_EQ(prompt.vocab_size, spec_.vocab_size);
    EXPECT_EQ(prompt.greedy.size(), 64u);
    EXPECT_GT(prompt.greedy_margin, 10 * golden_.fp32_tolerance);
    // The first greedy token is the best of the last position's logits.
    const auto last = prompt.LogitsAt(length - 1);
    EXPECT_EQ(std::max_element(last.begin(), last.end()) - last.begin(), prompt.greedy[0]);
    for (int64_t i = prompt.logits_begin; i < length; ++i) {
      for (int64_t v = 0; v < spec_.vocab_size; ++v) {
        ASSERT_LE(std::abs(prompt.LogitsAt(i)[v] - prompt.Bf16LogitsAt(i)[v]),
                  golden_.bf16_tolerance);
      }
    }
  }
  if (golden_.Has("rope_llama3")) {
    EXPECT_GT(longest, 2 * spec_.rope_scaling.original_context);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ModelGolden, testing::ValuesIn(golden::CaseNames()),
                         [](const auto& info) { return info.param; });

TEST(ModelGoldens, CoverEveryFeature) {
  std::set<std::string> features;
  for (const std::string& name : golden::CaseNames()) {
    const auto golden = golden::Read(name);
    ASSERT_TRUE(golden.ok()) << golden.status();
    features.insert(golden->features.begin(), golden->features.end());
  }
  for (const char* feature :
       {"rope_llama3", "rope_linear", "gqa", "mha", "tied_head", "attention_bias", "mlp_bias",
        "sharded", "float32", "bfloat16", "float16", "demo"}) {
    EXPECT_EQ(features.count(feature), 1u) << feature;
  }
}

}  // namespace
}  // namespace tessera
