// What each family makes of its config.json beyond what the goldens show: defaults, older and newer
// spellings, and what is refused by name.

#include "models/family.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "models/model_spec.h"
#include "tests/models/model_files.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

Json ConfigOf(const char* architecture, const Json& change) {
  Json config = SmallConfig();
  config["architectures"] = {architecture};
  config.update(change);
  return config;
}

ModelSpec Spec(const char* architecture, const Json& change = Json::object()) {
  const absl::StatusOr<ModelSpec> spec = ParseModelSpec(ConfigOf(architecture, change).dump());
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : ModelSpec();
}

std::string Message(const char* architecture, const Json& change = Json::object()) {
  return std::string(ParseModelSpec(ConfigOf(architecture, change).dump()).status().message());
}

std::vector<int64_t> Windows(const ModelSpec& spec) {
  std::vector<int64_t> windows;
  for (const LayerSpec& layer : spec.layers) windows.push_back(layer.window);
  return windows;
}

TEST(Families, AreListedWhereAnArchitectureIsUnknown) {
  const std::string message = Message("Gemma3nForConditionalGeneration");
  for (const Family* family : Families()) {
    EXPECT_THAT(message, HasSubstr(std::string(family->architecture)));
  }
}

TEST(Mistral, WindowIsGivenNullOrLeftOut) {
  const Json long_context = {{"max_position_embeddings", 32768}};
  Json config = long_context;
  EXPECT_THAT(Windows(Spec("MistralForCausalLM", config)), ElementsAre(4096, 4096));
  config["sliding_window"] = nullptr;
  EXPECT_THAT(Windows(Spec("MistralForCausalLM", config)), ElementsAre(0, 0));
  config["sliding_window"] = 100;
  const ModelSpec spec = Spec("MistralForCausalLM", config);
  EXPECT_THAT(Windows(spec), ElementsAre(100, 100));
  ASSERT_EQ(spec.kv_groups.size(), 1u);
  EXPECT_EQ(spec.kv_groups[0].kind, KvGroup::Kind::kWindow);
  EXPECT_EQ(spec.kv_groups[0].window, 100);
  // No sequence grows out of this one.
  config["sliding_window"] = 32768;
  EXPECT_EQ(Spec("MistralForCausalLM", config).kv_groups[0].kind, KvGroup::Kind::kFull);
}

TEST(Mistral, OnlyMinistralMixesLayers) {
  const Json mixed = {{"sliding_window", 9},
                      {"layer_types", {"sliding_attention", "full_attention"}}};
  EXPECT_THAT(Message("MistralForCausalLM", mixed), HasSubstr("MinistralForCausalLM may mix"));
  const ModelSpec spec = Spec("MinistralForCausalLM", mixed);
  EXPECT_THAT(Windows(spec), ElementsAre(9, 0));
  ASSERT_EQ(spec.kv_groups.size(), 2u);  // full layers first
  EXPECT_THAT(spec.kv_groups[0].layers, ElementsAre(1));
  EXPECT_THAT(spec.kv_groups[1].layers, ElementsAre(0));
}

TEST(Layers, NamesWithoutAWindowAreRefused) {
  EXPECT_THAT(
      Message("MinistralForCausalLM", {{"sliding_window", nullptr},
                                       {"layer_types", {"sliding_attention", "full_attention"}}}),
      HasSubstr("\"layer_types\""));
  EXPECT_THAT(Message("MinistralForCausalLM", {{"layer_types", {"full_attention", "chunked"}}}),
              HasSubstr("\"layer_types\""));
}

TEST(Qwen, AWindowThatIsSwitchedOffIsNone) {
  Json config = {{"sliding_window", 9}, {"max_window_layers", 1}};
  EXPECT_THAT(Windows(Spec("Qwen2ForCausalLM", config)), ElementsAre(0, 0));
  config["use_sliding_window"] = true;
  EXPECT_THAT(Windows(Spec("Qwen2ForCausalLM", config)), ElementsAre(0, 9));
  EXPECT_THAT(Windows(Spec("Qwen3ForCausalLM", config)), ElementsAre(0, 9));
  config.erase("max_window_layers");  // 28: beyond these two layers
  EXPECT_THAT(Windows(Spec("Qwen2ForCausalLM", config)), ElementsAre(0, 0));
}

TEST(Qwen, BiasesAndHeadNorms) {
  const ModelSpec second = Spec("Qwen2ForCausalLM");
  EXPECT_TRUE(second.qkv_bias && !second.output_bias && !second.qk_norm);
  const ModelSpec third = Spec("Qwen3ForCausalLM");
  EXPECT_TRUE(!third.qkv_bias && !third.output_bias && third.qk_norm);
  EXPECT_THAT(Message("Qwen3ForCausalLM", {{"head_dim", nullptr}}), HasSubstr("\"head_dim\""));
}

TEST(Yarn, ExtendsTheContextAndScalesTheMagnitude) {
  const Json yarn = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}};
  ModelSpec spec = Spec("Qwen2ForCausalLM", {{"rope_scaling", yarn}});
  EXPECT_EQ(spec.context_max, 256);  // max_position_embeddings is still 64
  const RopeScaling& scaling = spec.ropes[0].scaling;
  EXPECT_EQ(scaling.beta_fast, 32.0);
  EXPECT_EQ(scaling.beta_slow, 1.0);
  EXPECT_DOUBLE_EQ(scaling.attention_factor, 0.1 * std::log(4.0) + 1.0);
  Json all = yarn;
  all.update({{"mscale", 0.7}, {"mscale_all_dim", 1.4}});
  spec = Spec("Qwen2ForCausalLM", {{"rope_scaling", all}, {"max_position_embeddings", 1000}});
  EXPECT_EQ(spec.context_max, 1000);
  EXPECT_DOUBLE_EQ(spec.ropes[0].scaling.attention_factor,
                   (0.07 * std::log(4.0) + 1.0) / (0.14 * std::log(4.0) + 1.0));
}

TEST(Gemma, WhatAllShare) {
  for (const char* architecture : {"GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"}) {
    const ModelSpec spec =
        Spec(architecture, {{"query_pre_attn_scalar", 6}, {"sliding_window", 9}});
    EXPECT_TRUE(spec.norm_plus_one && spec.tied_head);
    EXPECT_FLOAT_EQ(spec.embedding_scale, std::sqrt(10.0f));
    EXPECT_EQ(spec.activation, ActivationKind::kGeluTanh);
  }
  // The first configs had the name of another activation where nobody looked.
  EXPECT_EQ(
      Spec("GemmaForCausalLM", {{"hidden_act", "gelu"}, {"hidden_activation", "gelu_pytorch_tanh"}})
          .activation,
      ActivationKind::kGeluTanh);
}

TEST(Gemma, WindowsAlternateInTheSecondAndAreFiveOfSixInTheThird) {
  const Json config = {
      {"num_hidden_layers", 7}, {"query_pre_attn_scalar", 6}, {"sliding_window", 9}};
  EXPECT_THAT(Windows(Spec("Gemma2ForCausalLM", config)), ElementsAre(9, 0, 9, 0, 9, 0, 9));
  const ModelSpec third = Spec("Gemma3ForCausalLM", config);
  EXPECT_THAT(Windows(third), ElementsAre(9, 9, 9, 9, 9, 0, 9));
  ASSERT_EQ(third.ropes.size(), 2u);
  EXPECT_EQ(third.ropes[third.layers[5].rope].theta, 1e6);
  EXPECT_EQ(third.ropes[third.layers[6].rope].theta, 1e4);
  for (const char* architecture : {"Gemma2ForCausalLM", "Gemma3ForCausalLM"}) {
    Json without = config;
    without.erase("sliding_window");
    EXPECT_THAT(Message(architecture, without), HasSubstr("\"sliding_window\""));
    without = config;
    without.erase("query_pre_attn_scalar");
    EXPECT_THAT(Message(architecture, without), HasSubstr("\"query_pre_attn_scalar\""));
  }
}

TEST(Gemma, RopesOfBothKindsOfLayersInTheNewerSpelling) {
  Json config = {{"num_hidden_layers", 6}, {"query_pre_attn_scalar", 6}, {"sliding_window", 9}};
  config["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 2e6}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 3e4}}}};
  const ModelSpec spec = Spec("Gemma3ForCausalLM", config);
  ASSERT_EQ(spec.ropes.size(), 2u);
  EXPECT_EQ(spec.ropes[0].theta, 2e6);
  EXPECT_EQ(spec.ropes[0].scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(spec.ropes[1].theta, 3e4);
  config["rope_parameters"].erase("sliding_attention");
  EXPECT_THAT(Message("Gemma3ForCausalLM", config), HasSubstr("sliding_attention"));
  // Elsewhere there is one for all layers, and nothing is guessed.
  EXPECT_THAT(Message("LlamaForCausalLM", {{"rope_parameters", config["rope_parameters"]}}),
              HasSubstr("the same for all layers"));
}

TEST(Gemma, TheThirdRefusesWhatTheReferenceDoesNotDo) {
  const Json config = {{"query_pre_attn_scalar", 6}, {"sliding_window", 9}};
  Json change = config;
  change["attn_logit_softcapping"] = 50.0;
  EXPECT_THAT(Message("Gemma3ForCausalLM", change), HasSubstr("\"attn_logit_softcapping\""));
  change = config;
  change["use_bidirectional_attention"] = true;
  EXPECT_THAT(Message("Gemma3ForCausalLM", change), HasSubstr("use_bidirectional_attention"));
}

TEST(Gemma, ConfigsOfTheModelsThatSeeImagesSayLittle) {
  const Json config = {{"architectures", {"Gemma3ForConditionalGeneration"}},
                       {"torch_dtype", "bfloat16"},
                       {"text_config",
                        {{"hidden_size", 2560},
                         {"intermediate_size", 10240},
                         {"num_hidden_layers", 34},
                         {"rope_scaling", {{"factor", 8.0}, {"rope_type", "linear"}}},
                         {"sliding_window", 1024}}}};
  const absl::StatusOr<ModelSpec> spec = ParseModelSpec(config.dump());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->num_heads, 8);
  EXPECT_EQ(spec->head_size, 256);
  EXPECT_EQ(spec->context_max, 131072);
  EXPECT_EQ(spec->ropes[0].theta, 1e6);
  EXPECT_EQ(spec->ropes[0].scaling.factor, 8.0);
  ASSERT_EQ(spec->kv_groups.size(), 2u);
  EXPECT_EQ(spec->kv_groups[1].layers.size(), 29u);
  EXPECT_NEAR(static_cast<double>(ParameterCount(*spec)), 3.88e9, 0.01e9);  // the 4B model's text
  Json damaged = config;
  damaged.erase("text_config");
  EXPECT_THAT(std::string(ParseModelSpec(damaged.dump()).status().message()),
              HasSubstr("\"text_config\""));
  damaged = config;
  damaged["text_config"]["head_dim"] = 7;
  EXPECT_THAT(std::string(ParseModelSpec(damaged.dump()).status().message()),
              HasSubstr("\"text_config.head_dim\""));
}

Json LongRope(const char* type) {
  return {{"type", type}, {"short_factor", {1.0, 1.0, 2.0}}, {"long_factor", {1.0, 3.0, 4.0}}};
}

TEST(Phi, LongRopeHasFactorsForShortAndForLongSequences) {
  for (const char* type : {"longrope", "su", "yarn"}) {
    const ModelSpec spec = Spec("Phi3ForCausalLM", {{"original_max_position_embeddings", 16},
                                                    {"rope_scaling", LongRope(type)}});
    EXPECT_EQ(spec.context_max, 64);
    const double magnitude = std::sqrt(1.0 + std::log(4.0) / std::log(16.0));
    const RotaryTable within = MakeRotaryTable(spec.ropes[0], /*is_long=*/false);
    const RotaryTable beyond = MakeRotaryTable(spec.ropes[0], /*is_long=*/true);
    EXPECT_NEAR(within.inverse_frequencies[2] / beyond.inverse_frequencies[2], 2.0, 1e-6);
    EXPECT_NEAR(within.attention_factor, magnitude, 1e-6);
    EXPECT_NEAR(beyond.attention_factor, magnitude, 1e-6);
  }
  Json scaling = LongRope("longrope");
  scaling.update({{"short_mscale", 1.25}, {"long_mscale", 1.5}});
  const ModelSpec spec = Spec(
      "Phi3ForCausalLM", {{"original_max_position_embeddings", 16}, {"rope_scaling", scaling}});
  EXPECT_EQ(MakeRotaryTable(spec.ropes[0], /*is_long=*/false).attention_factor, 1.25f);
  EXPECT_EQ(MakeRotaryTable(spec.ropes[0], /*is_long=*/true).attention_factor, 1.5f);
  EXPECT_EQ(RopeSwitch(spec, 17), 16);
  EXPECT_EQ(RopeSwitch(spec, 16), 0);
  EXPECT_EQ(RopeSwitch(Spec("Phi3ForCausalLM"), 64), 0);
  EXPECT_THAT(Message("Phi3ForCausalLM", {{"rope_scaling", LongRope("longrope")}}),
              HasSubstr("original_max_position_embeddings"));
}

TEST(Phi, APartOfTheHeadTurns) {
  const ModelSpec spec = Spec("Phi3ForCausalLM", {{"partial_rotary_factor", 0.7}});  // of 6
  EXPECT_EQ(spec.ropes[0].rotary_size, 4);
  EXPECT_THAT(Message("Phi3ForCausalLM", {{"partial_rotary_factor", 0.5}}),
              HasSubstr("\"partial_rotary_factor\""));
  EXPECT_THAT(Message("Phi3ForCausalLM", {{"attention_bias", true}}),
              HasSubstr("\"attention_bias\""));
}

TEST(Phi, FusedTensorsAreRangesOfTheirRows) {
  const ModelSpec spec = Spec("Phi3ForCausalLM");
  std::vector<int64_t> begins;
  for (const WeightSpec& weight : WeightTable(spec)) {
    if (weight.name != "model.layers.1.self_attn.qkv_proj.weight") continue;
    begins.push_back(weight.stored_begin);
    EXPECT_THAT(weight.StoredShape(), ElementsAre(24 + 2 * 12, 10));
  }
  EXPECT_THAT(begins, ElementsAre(0, 24, 36));
}

}  // namespace
}  // namespace tessera
