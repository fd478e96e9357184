// The goldens of tests/golden/models: they open, their tensors are those of the table, and the
// numbers that need no forward pass agree with the reference. The forward pass is compared by the
// worker's tests.

#include "tests/golden/models/golden.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/checkpoint.h"
#include "models/model_spec.h"
#include "models/weight_spec.h"
#include "tests/models/random_spec.h"

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

  void CompareRopes(const std::vector<golden::Rope>& ropes, bool is_long) const;

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

// What counts bytes goes by one expert for all of a layer's; they are alike.
TEST_P(ModelGolden, OneExpertStandsForAll) {
  std::map<std::string, std::vector<int64_t>> one;
  for (const WeightSpec& weight : WeightTableOfOneExpert(spec_)) {
    one[absl::StrCat(weight.name, " ", static_cast<int>(weight.slot))] = weight.shape;
  }
  size_t seen = 0;
  for (const WeightSpec& weight : WeightTable(spec_)) {
    std::string name = weight.name;
    const std::string own = absl::StrCat("experts.", weight.expert, ".");
    if (weight.expert > 0) name.replace(name.find(own), own.size(), "experts.0.");
    const auto found = one.find(absl::StrCat(name, " ", static_cast<int>(weight.slot)));
    ASSERT_NE(found, one.end()) << name;
    EXPECT_EQ(found->second, weight.shape) << name;
    seen += weight.expert <= 0 ? 1 : 0;
  }
  EXPECT_EQ(seen, one.size());
}

// How a checkpoint is stored, by its files.
TEST_P(ModelGolden, IsStoredAsItsFeaturesSay) {
  const std::map<std::string, DType> dtypes = {
      {"float32", DType::kFloat32}, {"bfloat16", DType::kBFloat16}, {"float16", DType::kFloat16}};
  std::set<DType> stored;
  std::set<const MappedFile*> files;
  for (const auto& [name, located] : checkpoint_->tensors()) {
    files.insert(located.file);
    const bool always_float32 =
        absl::EndsWith(name, "e_score_correction_bias") || absl::EndsWith(name, "_scale_inv");
    if (!always_float32 && located.entry.dtype != DType::kFloat8E4M3) {
      stored.insert(located.entry.dtype);
    }
  }
  for (const auto& [feature, dtype] : dtypes) {
    EXPECT_EQ(golden_.Has(feature), stored == std::set<DType>{dtype}) << feature;
    EXPECT_EQ(golden_.Has(feature), spec_.checkpoint_dtype == dtype) << feature;
  }
  EXPECT_EQ(golden_.Has("sharded"), files.size() > 1);
  EXPECT_EQ(golden_.Has("demo"), golden_.name == "demo");
}

TEST_P(ModelGolden, RopeFrequencies) {
  const int64_t original = RopeSwitch(spec_, spec_.context_max);
  CompareRopes(golden_.ropes, original > 0 && golden_.LongestPrompt() > original);
  EXPECT_EQ(golden_.short_ropes.empty(), original == 0);
  if (original > 0) CompareRopes(golden_.short_ropes, false);
}

void ModelGolden::CompareRopes(const std::vector<golden::Rope>& ropes, bool is_long) const {
  ASSERT_EQ(spec_.ropes.size(), ropes.size());
  for (size_t rope = 0; rope < spec_.ropes.size(); ++rope) {
    const golden::Rope& wanted = ropes[rope];
    const auto worst = [&](const RotarySpec& spec) {
      const RotaryTable table = MakeRotaryTable(spec, is_long);
      EXPECT_EQ(table.inverse_frequencies.size(), wanted.inverse_frequencies.size());
      double difference = 0;
      for (size_t i = 0; i < wanted.inverse_frequencies.size(); ++i) {
        const double reference = wanted.inverse_frequencies[i];
        const double ours = table.inverse_frequencies[i];
        difference = std::max(difference, std::abs(ours - reference) / reference);
      }
      return difference;
    };
    EXPECT_LT(worst(spec_.ropes[rope]), 1e-6);  // the reference computes in float32
    EXPECT_NEAR(MakeRotaryTable(spec_.ropes[rope], is_long).attention_factor,
                wanted.attention_factor, 1e-6);
    if (spec_.ropes[rope].scaling.kind == RopeScaling::Kind::kNone) continue;
    RotarySpec plain = spec_.ropes[rope];
    plain.scaling = RopeScaling();
    EXPECT_GT(worst(plain), 0.2);
  }
}

bool HasScaling(const ModelSpec& spec, RopeScaling::Kind kind) {
  return std::any_of(spec.ropes.begin(), spec.ropes.end(),
                     [kind](const RotarySpec& rope) { return rope.scaling.kind == kind; });
}

bool IsFused(const ModelSpec& spec) {
  const std::vector<WeightSpec> table = WeightTable(spec);
  return std::any_of(table.begin(), table.end(), [](const WeightSpec& weight) {
    return weight.stored_rows > 0 && weight.run_rows == 0;
  });
}

// Whether a sequence of the golden is computed by the short factors of its longrope, by the long
// ones, or by both in turn.
struct RopeUse {
  bool with_short = false;
  bool with_long = false;
  bool with_both = false;
};

RopeUse UseOf(const ModelSpec& spec, const std::vector<golden::Prompt>& prompts) {
  const size_t original = static_cast<size_t>(RopeSwitch(spec, spec.context_max));
  RopeUse use;
  if (original == 0) return use;
  for (const golden::Prompt& prompt : prompts) {
    const size_t end = prompt.tokens.size() + prompt.greedy.size() - 1;
    use.with_short = use.with_short || prompt.tokens.size() <= original;
    use.with_long = use.with_long || end > original;
    use.with_both = use.with_both || (prompt.tokens.size() <= original && end > original);
  }
  return use;
}

// What a feature's name says of a spec.
std::map<std::string, bool> FeaturesOf(const ModelSpec& spec, const RopeUse& use) {
  using Kind = RopeScaling::Kind;
  const RotarySpec& rope = spec.ropes[0];
  const bool windows = spec.kv_groups.back().kind == KvGroup::Kind::kWindow;
  const bool latent = spec.latent.kv_rank > 0;
  const int64_t width = latent ? spec.latent.nope_size + spec.latent.rope_size : spec.head_size;
  const float plain_scale = 1.0f / std::sqrt(static_cast<float>(width));
  const bool other_scale = std::abs(spec.attention_scale - plain_scale) > 1e-3f;
  const MoeSpec& moe = spec.moe;
  const bool experts = moe.num_experts > 0;
  return {{"rope_llama3", HasScaling(spec, Kind::kLlama3)},
          {"rope_linear", HasScaling(spec, Kind::kLinear)},
          {"rope_yarn", HasScaling(spec, Kind::kYarn)},
          {"rope_longrope_short", use.with_short},
          {"rope_longrope_long", use.with_long},
          {"rope_switch", use.with_both},
          {"two_ropes", spec.ropes.size() == 2},
          {"partial_rotary", !latent && rope.rotary_size < spec.head_size},
          {"window", windows},
          {"mixed_windows", spec.kv_groups.size() > 1},
          {"gqa", !latent && spec.num_kv_heads < spec.num_heads},
          {"head_dim", !latent && spec.head_size * spec.num_heads != spec.hidden_size},
          {"tied_head", spec.tied_head},
          {"attention_bias", spec.qkv_bias && spec.output_bias},
          {"qkv_bias", spec.qkv_bias && !spec.output_bias},
          {"mlp_bias", spec.mlp_bias},
          {"qk_norm", spec.qk_norm},
          {"out_norms", spec.attention_out_norm && spec.mlp_out_norm},
          {"norm_plus_one", spec.norm_plus_one},
          {"embedding_scale", spec.embedding_scale != 1.0f},
          {"gelu_tanh", spec.activation == ActivationKind::kGeluTanh},
          {"gelu", spec.activation == ActivationKind::kGelu},
          {"attention_softcap", spec.attention_softcap != 0},
          {"final_softcap", spec.final_softcap != 0},
          {"query_scale", !latent && other_scale},
          {"fused", IsFused(spec)},
          {"latent", latent},
          {"query_rank", spec.latent.query_rank > 0},
          {"mscale", latent && other_scale},
          {"experts", experts},
          {"dense_layers", experts && HasDenseLayers(spec)},
          {"routing_norm", experts && moe.normalize},
          {"raw_routing", experts && !moe.normalize && moe.scoring == MoeSpec::Scoring::kSoftmax},
          {"routed_scale", moe.routed_scale != 1.0},
          {"expert_groups", moe.num_groups > 1},
          {"sigmoid_routing", moe.scoring == MoeSpec::Scoring::kSigmoid},
          {"sparse_mixer", moe.scoring == MoeSpec::Scoring::kSparseMixer},
          {"correction_bias", moe.correction_bias},
          {"shared_expert", moe.shared_intermediate > 0},
          {"shared_gate", moe.shared_gate},
          {"layer_norm", spec.layer_norm},
          {"head_bias", spec.head_bias},
          {"float8", spec.float8.rows > 0}};
}

TEST_P(ModelGolden, FeaturesAreThoseOfTheConfig) {
  for (const auto& [feature, present] : FeaturesOf(spec_, UseOf(spec_, golden_.prompts))) {
    EXPECT_EQ(golden_.Has(feature), present) << feature;
  }
}

TEST_P(ModelGolden, IsAGoodWitness) {
  if (!golden_.Has("demo")) {
    EXPECT_LT(golden_.entropy_ratio, 0.5);
  }
  EXPECT_LE(golden_.fp32_tolerance, 2e-4);
  if (spec_.moe.num_experts > 0) {
    EXPECT_GE(golden_.expert_ratio, 1.5);
  }
  const int64_t longest = golden_.LongestPrompt();
  for (const golden::Prompt& prompt : golden_.prompts) {
    const int64_t length = static_cast<int64_t>(prompt.tokens.size());
    EXPECT_EQ(prompt.vocab_size, spec_.vocab_size);
    EXPECT_GE(prompt.greedy.size(), 48u);
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
  // Long enough for what changes with the length.
  for (const RotarySpec& rope : spec_.ropes) {
    if (golden_.name == "phi3_longrope_short") continue;
    EXPECT_GT(longest, rope.scaling.original_context);
  }
  EXPECT_GT(longest, 3 * spec_.kv_groups.back().window);
}

INSTANTIATE_TEST_SUITE_P(Cases, ModelGolden, testing::ValuesIn(golden::CaseNames()),
                         [](const auto& info) { return info.param; });

TEST(ModelGoldens, AreThoseThatAreExpected) {
  EXPECT_EQ(golden::CaseNames(), golden::ExpectedCaseNames());
}

TEST(ModelGoldens, CoverEveryFeature) {
  std::set<std::string> features;
  for (const std::string& name : golden::CaseNames()) {
    const auto golden = golden::Read(name);
    ASSERT_TRUE(golden.ok()) << golden.status();
    features.insert(golden->features.begin(), golden->features.end());
  }
  for (const auto& [feature, present] : FeaturesOf(SpecOf({}), {})) {
    EXPECT_EQ(features.count(feature), 1u) << feature;
  }
  for (const char* feature : {"mha", "sharded", "float32", "bfloat16", "float16", "demo"}) {
    EXPECT_EQ(features.count(feature), 1u) << feature;
  }
}

}  // namespace
}  // namespace tessera
