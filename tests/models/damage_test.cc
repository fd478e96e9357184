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
  for (const auto& [place, values] : Impossible()) {
    const Json::json_pointer pointer(part + place);
    if (!config_.contains(pointer) || config_.at(pointer).is_null()) continue;
    // Read where something is scaled only.
    const bool scaled = text.contains("rope_scaling") && text["rope_scaling"].is_object();
    if (place == "/original_max_position_embeddings" && !scaled) continue;
    // The reference saves both spellings; the newer one rules.
    if (place == "/rope_scaling/type" && text["rope_scaling"].contains("rope_type")) continue;
    const std::string key = place.substr(place.rfind('/') + 1);
    for (const Json& value : values) {
      Json damaged = config_;
      damaged[pointer] = value;
      const absl::Status status = ParseModelSpec(damaged.dump()).status();
      EXPECT_FALSE(status.ok()) << place << " = " << value;
      const std::string named = absl::EndsWith(place, "type") ? "rope" : key;
      EXPECT_THAT(std::string(status.message()), HasSubstr(named)) << place << " = " << value;
    }
    ++keys;
  }
  EXPECT_GE(keys, 11);
}

INSTANTIATE_TEST_SUITE_P(Cases, DamageTest, testing::ValuesIn(golden::CaseNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tessera
