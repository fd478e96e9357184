// Damaged and hostile checkpoints of every family: the tensor or the key that is wrong is named,
// and nothing worse happens. Real ones are the goldens'; each test damages one thing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "models/checkpoint.h"
#include "models/model_spec.h"
#include "models/weight_spec.h"
#include "tests/golden/models/golden.h"
#include "tests/models/model_files.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

class DamageTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const auto golden = golden::Read(GetParam());
    ASSERT_TRUE(golden.ok()) << golden.status();
    std::ifstream in(golden->model_dir + "/config.json");
    config_ = Json::parse(std::string(std::istreambuf_iterator<char>(in), {}));
    const auto spec = ParseModelSpec(config_.dump());
    ASSERT_TRUE(spec.ok()) << spec.status();
    spec_ = *spec;
  }

  std::string CheckMessage(const std::vector<FakeTensor>& tensors) const {
    const TempDir dir;
    dir.Write("config.json", config_.dump());
    dir.Write("model.safetensors", SafetensorsFile(tensors));
    const auto checkpoint = Checkpoint::Open(dir.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return std::string(CheckTensors(spec_, **checkpoint).message());
  }

  // Of CheckFinite, where every byte of the last tensor is `fill`.
  std::string FiniteMessage(const std::vector<FakeTensor>& tensors, char fill) const {
    std::string file = SafetensorsFile(tensors);
    const auto entries = ParseSafetensorsHeader(file, file.size());
    EXPECT_TRUE(entries.ok()) << entries.status();
    const TensorEntry& last = entries->back();
    std::fill(file.begin() + static_cast<int64_t>(last.begin), file.end(), fill);
    const TempDir dir;
    dir.Write("config.json", config_.dump());
    dir.Write("model.safetensors", file);
    const auto checkpoint = Checkpoint::Open(dir.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return std::string(CheckFinite(spec_, **checkpoint).message());
  }

  Json config_;
  ModelSpec spec_;
};

TEST_P(DamageTest, EveryTensorThatIsMissingOrMisshapenIsNamed) {
  const std::vector<FakeTensor> good = TensorsOf(spec_);
  EXPECT_EQ(CheckMessage(good), "");
  const std::string last = "layers." + std::to_string(spec_.num_layers - 1) + ".";
  for (size_t i = 0; i < good.size(); ++i) {
    const std::string& name = good[i].name;
    // The last layer stands for the others.
    if (absl::StrContains(name, "layers.") && !absl::StrContains(name, last)) continue;
    std::vector<FakeTensor> missing = good;
    missing.erase(missing.begin() + static_cast<int64_t>(i));
    EXPECT_THAT(CheckMessage(missing), HasSubstr("lacks tensor '" + name + "'"));
    std::vector<FakeTensor> longer = good;
    longer[i].shape[0] += 1;
    EXPECT_THAT(CheckMessage(longer), HasSubstr("tensor '" + name + "' has the shape"));
    std::vector<FakeTensor> empty = good;
    empty[i].shape.back() = 0;
    EXPECT_THAT(CheckMessage(empty), HasSubstr("tensor '" + name + "' has the shape"));
  }
}

// Numbers that decide for whole tokens are looked at, all others are not.
TEST_P(DamageTest, NumbersThatAreNotFiniteAreNamed) {
  const std::vector<FakeTensor> tensors = TensorsOf(spec_);
  const std::string good = SafetensorsFile(tensors);
  const std::string last = "layers." + std::to_string(spec_.num_layers - 1) + ".";
  const auto entries = ParseSafetensorsHeader(good, good.size());
  ASSERT_TRUE(entries.ok()) << entries.status();
  const TempDir dir;
  dir.Write("config.json", config_.dump());
  int decisive = 0;
  for (const TensorEntry& entry : *entries) {
    if (absl::StrContains(entry.name, "layers.") && !absl::StrContains(entry.name, last)) continue;
    const bool looked_at = absl::StrContains(entry.name, "norm.") ||
                           absl::StrContains(entry.name, "layernorm") ||
                           absl::EndsWith(entry.name, "mlp.gate.weight") ||
                           absl::EndsWith(entry.name, "block_sparse_moe.gate.weight") ||
                           absl::EndsWith(entry.name, "expert_gate.weight") ||
                           absl::EndsWith(entry.name, "e_score_correction_bias");
    for (const unsigned char high : {0x7f, 0xff}) {  // of an infinity
      std::string damaged = good;
      damaged.replace(entry.end - 4, 4, std::string({0, 0, '\x80', static_cast<char>(high)}));
      dir.Write("model.safetensors", damaged);
      const auto checkpoint = Checkpoint::Open(dir.path());
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
      EXPECT_TRUE(CheckTensors(spec_, **checkpoint).ok());
      const absl::Status status = CheckFinite(spec_, **checkpoint);
      EXPECT_EQ(status.ok(), !looked_at) << entry.name << ": " << status;
      if (looked_at) {
        EXPECT_THAT(std::string(status.message()),
                    HasSubstr("tensor '" + entry.name + "' holds no finite number at"));
      }
    }
    decisive += looked_at ? 1 : 0;
  }
  EXPECT_GE(decisive, 3);
  dir.Write("model.safetensors", good);
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(CheckFinite(spec_, **checkpoint).ok());
}

// Every matrix but one stored in float8; what may be wrong with its scales.
TEST_P(DamageTest, ScalesOfFloat8AreNamed) {
  if (spec_.float8.rows == 0) return;
  std::vector<FakeTensor> tensors = TensorsOf(spec_);
  size_t at = tensors.size();
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (absl::EndsWith(tensors[i].name, "layers.2.self_attn.kv_b_proj.weight")) at = i;
  }
  ASSERT_LT(at, tensors.size());
  const FakeTensor plain = tensors[at];
  tensors[at].dtype = "F8_E4M3";
  EXPECT_THAT(CheckMessage(tensors), HasSubstr("lacks tensor '" + plain.name + "_scale_inv'"));
  const auto blocks = [](int64_t n, int64_t size) { return (n + size - 1) / size; };
  const FakeTensor scale = {
      plain.name + "_scale_inv",
      {blocks(plain.shape[0], spec_.float8.rows), blocks(plain.shape[1], spec_.float8.columns)}};
  tensors.push_back(scale);
  EXPECT_EQ(CheckMessage(tensors), "");
  EXPECT_THAT(FiniteMessage(tensors, '\xff'), HasSubstr("tensor '" + scale.name + "' holds no"));
  tensors.back().dtype = "BF16";
  EXPECT_THAT(CheckMessage(tensors), HasSubstr("tensor '" + scale.name + "' is bfloat16"));
  tensors.back() = scale;
  tensors.back().shape[1] += 1;
  EXPECT_THAT(CheckMessage(tensors), HasSubstr("tensor '" + scale.name + "' is float32 of the"));
  // A scale of what needs none has no place.
  tensors.back() = scale;
  tensors[at] = plain;
  EXPECT_THAT(CheckMessage(tensors), HasSubstr("tensor '" + scale.name + "'"));
  // Norms are no matrices.
  tensors.pop_back();
  tensors.back() = {tensors.back().name, tensors.back().shape, "F8_E4M3"};
  FakeTensor& norm = tensors[1];
  ASSERT_EQ(norm.shape.size(), 1u);
  norm.dtype = "F8_E4M3";
  EXPECT_THAT(CheckMessage(tensors), HasSubstr("tensor '" + norm.name + "' is float8_e4m3"));
}

// Experts and latent attention.
std::map<std::string, std::vector<Json>> ImpossibleOfExperts() {
  return {
      {"/num_local_experts", {0, -1, 1025, "8"}},
      {"/num_experts", {0, -1, 1025, 8.5}},
      {"/n_routed_experts", {0, -1, 1025, "64"}},
      {"/num_experts_per_tok", {0, -1, 1025, "2"}},
      {"/moe_intermediate_size", {0, -1, 1e9}},
      {"/shared_expert_intermediate_size", {0, -1, "big"}},
      {"/n_shared_experts", {-1, 1025, "one"}},
      {"/norm_topk_prob", {1, "yes"}},
      {"/decoder_sparse_step", {0, -1, "all"}},
      {"/mlp_only_layers", {1, "none", {-1}, {1024}, {"1"}}},
      {"/router_jitter_noise", {-1, "some"}},
      {"/lm_head_bias", {1, "yes"}},
      {"/first_k_dense_replace", {-1, 1025, "one"}},
      {"/moe_layer_freq", {0, 2, "1"}},
      {"/q_lora_rank", {0, -1, 1e9, "low"}},
      {"/kv_lora_rank", {0, -1, 577, "low"}},
      {"/qk_nope_head_dim", {0, -1, 513}},
      {"/qk_rope_head_dim", {0, -1, 7, 513}},
      {"/v_head_dim", {0, -1, 513, "wide"}},
      {"/n_group", {0, -1, 5, 1025}},
      {"/topk_group", {0, -1, 1025}},
      {"/topk_method", {"best", 1}},
      {"/scoring_func", {"tanh", 1}},
      {"/routed_scaling_factor", {0, -1, 1e9, "much"}},
      {"/rope_interleave", {1, "yes"}},
      {"/num_nextn_predict_layers", {-1, 1025, "one"}},
      {"/rope_scaling/mscale", {-1, "much"}},
      {"/rope_scaling/mscale_all_dim", {-1, "much"}},
      {"/rope_scaling/short_mscale", {0, -1, "much"}},
      {"/rope_scaling/long_mscale", {0, -1, "much"}},
      {"/quantization_config/quant_method", {"gptq", "awq", 8}},
      {"/quantization_config/fmt", {"e5m2", 8}},
      {"/quantization_config/weight_block_size", {128, {128}, {0, 1}, {-1, 1}, {1.5, 1}}},
  };
}

// True where the key is there and means nothing.
bool IsUnread(const std::string& place, const Json& text) {
  const bool scaled = text.contains("rope_scaling") && text["rope_scaling"].is_object();
  // The reference saves both spellings; the newer one rules.
  if (place == "/rope_scaling/type") return text["rope_scaling"].contains("rope_type");
  if (place == "/original_max_position_embeddings") return !scaled;
  if (place == "/rope_scaling/original_max_position_embeddings") {
    return text.contains("original_max_position_embeddings");
  }
  // Windows are refused beside experts, unless the family has them on all layers.
  if (place == "/max_window_layers" || place == "/sliding_window") {
    return text.contains("use_sliding_window") && text.contains("num_experts");
  }
  if (place == "/router_jitter_noise") return !text.contains("lm_head_bias");  // Phi's alone
  const bool greedy = text.value("topk_method", "") == "greedy";
  return greedy && (place == "/n_group" || place == "/topk_group");
}

// What no config may say, by the place of the key.
std::map<std::string, std::vector<Json>> Impossible() {
  return {
      {"/num_hidden_layers", {0, -1, 2.5, 1025, "2"}},
      {"/hidden_size", {0, -8, 1.5, 1e9}},
      {"/num_attention_heads", {0, -4, 4097}},
      {"/num_key_value_heads", {0, -1, 5, 4098}},
      {"/head_dim", {0, -2, 7, 514}},
      {"/intermediate_size", {0, -1, "many"}},
      {"/vocab_size", {0, -1, 4194305}},
      {"/max_position_embeddings", {0, -1, 16777217}},
      {"/rms_norm_eps", {-1e-6, 2, "small"}},
      {"/rope_theta", {0, -1, 1e13, "big"}},
      {"/tie_word_embeddings", {1, "yes"}},
      {"/attention_bias", {1, "no"}},
      {"/mlp_bias", {0, "no"}},
      {"/sliding_window", {0, -1, 1.5, "4096", 16777217}},
      {"/use_sliding_window", {1, "true"}},
      {"/max_window_layers", {-1, 0.5, "all"}},
      {"/layer_types", {"full_attention", Json::array(), Json::array({"sliding"}), 7}},
      {"/query_pre_attn_scalar", {0, -256, "head"}},
      {"/attn_logit_softcapping", {0, -50, "50"}},
      {"/final_logit_softcapping", {0, -30, true}},
      {"/rope_local_base_freq", {0, -1, "local"}},
      {"/hidden_activation", {"relu", 3}},
      {"/partial_rotary_factor", {0, -0.5, 1.5, 0.01, "half"}},
      {"/original_max_position_embeddings", {0, -1, 1.5, "4096"}},
      {"/rope_scaling/factor", {0, 0.5, -4, "4"}},
      {"/rope_scaling/low_freq_factor", {0, -1}},
      {"/rope_scaling/high_freq_factor", {0, 0.5}},
      {"/rope_scaling/original_max_position_embeddings", {0, -1, 1.5}},
      {"/rope_scaling/beta_fast", {0, -32, 0.1}},
      {"/rope_scaling/beta_slow", {0, -1, "slow"}},
      {"/rope_scaling/truncate", {1, "no"}},
      {"/rope_scaling/attention_factor", {0, -1, "much"}},
      {"/rope_scaling/short_factor", {Json::array(), Json::array({1, 2}), 1, Json::array({0})}},
      {"/rope_scaling/long_factor", {Json::array(), "long", Json::array({-1, 1, 1, 1, 1, 1})}},
      {"/rope_scaling/rope_type", {"spiral", 3}},
      {"/rope_scaling/type", {"spiral", 3}},
  };
}

TEST_P(DamageTest, EveryImpossibleNumberIsNamedByItsKey) {
  int keys = 0;
  // Models of more than one part have the text's numbers apart.
  const std::string part = config_.contains("text_config") ? "/text_config" : "";
  const Json text = config_.contains("text_config") ? config_["text_config"] : config_;
  std::map<std::string, std::vector<Json>> impossible = Impossible();
  impossible.merge(ImpossibleOfExperts());
  for (const auto& [place, values] : impossible) {
    const Json::json_pointer pointer(part + place);
    if (!config_.contains(pointer) || config_.at(pointer).is_null()) continue;
    if (IsUnread(place, text)) continue;
    const std::string key = place.substr(place.rfind('/') + 1);
    for (const Json& value : values) {
      Json damaged = config_;
      damaged[pointer] = value;
      const absl::Status status = ParseModelSpec(damaged.dump()).status();
      EXPECT_FALSE(status.ok()) << place << " = " << value;
      EXPECT_THAT(std::string(status.message()), HasSubstr(key)) << place << " = " << value;
    }
    ++keys;
  }
  EXPECT_GE(keys, 10);
}

// A scaling without its kind is no plain embedding.
TEST_P(DamageTest, AScalingWithoutItsTypeIsNamed) {
  const std::string part = config_.contains("text_config") ? "/text_config" : "";
  const Json::json_pointer place(part + "/rope_scaling");
  if (!config_.contains(place) || config_.at(place).is_null()) return;
  for (const char* spelling : {"rope_scaling", "rope_parameters"}) {
    Json damaged = config_;
    Json scaling = damaged.at(place);
    scaling.erase("type");
    scaling.erase("rope_type");
    damaged[Json::json_pointer(part.empty() ? "" : part)].erase("rope_scaling");
    damaged[Json::json_pointer(part + "/" + spelling)] = scaling;
    EXPECT_THAT(std::string(ParseModelSpec(damaged.dump()).status().message()),
                HasSubstr(std::string(spelling) + ".rope_type\""));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, DamageTest, testing::ValuesIn(golden::CaseNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tessera
