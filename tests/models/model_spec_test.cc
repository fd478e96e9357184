// config.json: what is read, what is refused, and in which words.

#include "models/model_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "models/config_reader.h"
#include "tests/models/model_files.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

std::string Message(const Json& config) {
  return std::string(ParseModelSpec(config.dump()).status().message());
}

TEST(ModelSpec, ReadsEveryNumber) {
  Json config = SmallConfig();
  config.update(
      {{"rope_theta", 500000}, {"tie_word_embeddings", true}, {"torch_dtype", "bfloat16"}});
  const absl::StatusOr<ModelSpec> spec = ParseModelSpec(config.dump());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->architecture, "LlamaForCausalLM");
  EXPECT_EQ(spec->family, "llama");
  EXPECT_EQ(spec->num_layers, 2);
  EXPECT_EQ(spec->hidden_size, 10);
  EXPECT_EQ(spec->num_heads, 4);
  EXPECT_EQ(spec->num_kv_heads, 2);
  EXPECT_EQ(spec->head_size, 6);
  ASSERT_EQ(spec->ropes.size(), 1u);
  EXPECT_EQ(spec->ropes[0].rotary_size, 6);
  ASSERT_EQ(spec->layers.size(), 2u);
  EXPECT_EQ(spec->layers[1].window, 0);
  EXPECT_EQ(spec->intermediate_size, 12);
  EXPECT_EQ(spec->vocab_size, 13);
  EXPECT_EQ(spec->context_max, 64);
  EXPECT_FLOAT_EQ(spec->rms_norm_eps, 1e-5f);
  EXPECT_EQ(spec->ropes[0].theta, 500000.0);
  EXPECT_FLOAT_EQ(spec->attention_scale, 1.0f / std::sqrt(6.0f));
  EXPECT_EQ(spec->activation, ActivationKind::kSilu);
  EXPECT_TRUE(spec->tied_head);
  EXPECT_FALSE(spec->qkv_bias || spec->output_bias || spec->mlp_bias);
  EXPECT_EQ(spec->checkpoint_dtype, DType::kBFloat16);
  ASSERT_EQ(spec->kv_groups.size(), 1u);
  EXPECT_EQ(spec->kv_groups[0].kind, KvGroup::Kind::kFull);
  EXPECT_THAT(spec->kv_groups[0].layers, ElementsAre(0, 1));
  EXPECT_EQ(spec->kv_groups[0].num_kv_heads, 2);
  EXPECT_EQ(spec->kv_groups[0].head_size, 6);
}

TEST(ModelSpec, DefaultsAreTheReferences) {
  Json config = SmallConfig();
  for (const char* key : {"head_dim", "num_key_value_heads", "torch_dtype"}) config.erase(key);
  config.update({{"hidden_size", 16}, {"rope_scaling", nullptr}});
  const absl::StatusOr<ModelSpec> spec = ParseModelSpec(config.dump());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->head_size, 4);     // 16 / 4
  EXPECT_EQ(spec->num_kv_heads, 4);  // as many as query heads
  EXPECT_EQ(spec->ropes[0].theta, 10000.0);
  EXPECT_FALSE(spec->tied_head);
  EXPECT_EQ(spec->checkpoint_dtype, DType::kFloat32);
}

TEST(ModelSpec, BiasesAndActivation) {
  Json config = SmallConfig();
  config.update(
      {{"attention_bias", true}, {"mlp_bias", true}, {"hidden_act", "gelu_pytorch_tanh"}});
  const absl::StatusOr<ModelSpec> spec = ParseModelSpec(config.dump());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->qkv_bias && spec->output_bias && spec->mlp_bias);
  EXPECT_EQ(spec->activation, ActivationKind::kGeluTanh);
}

TEST(ModelSpec, RopeInEverySpelling) {
  const Json llama3 = {{"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  Json typed = llama3;
  typed["type"] = "llama3";
  Json newer = llama3;
  newer["rope_type"] = "llama3";
  Json newest = newer;
  newest["rope_theta"] = 500000.0;
  for (const Json& change :
       {Json{{"rope_scaling", typed}, {"rope_theta", 5e5}},
        Json{{"rope_scaling", newer}, {"rope_theta", 5e5}}, Json{{"rope_parameters", newest}},
        Json{{"rope_parameters", newest}, {"rope_scaling", typed}}}) {
    Json config = SmallConfig();
    config.update(change);
    const absl::StatusOr<ModelSpec> spec = ParseModelSpec(config.dump());
    ASSERT_TRUE(spec.ok()) << change << spec.status();
    EXPECT_EQ(spec->ropes[0].scaling.kind, RopeScaling::Kind::kLlama3);
    EXPECT_EQ(spec->ropes[0].scaling.factor, 32.0);
    EXPECT_EQ(spec->ropes[0].scaling.original_context, 8192);
    EXPECT_EQ(spec->ropes[0].theta, 500000.0);
  }
  Json config = SmallConfig();
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
  EXPECT_EQ(ParseModelSpec(config.dump())->ropes[0].scaling.kind, RopeScaling::Kind::kLinear);
  config["rope_scaling"] = {{"rope_type", "default"}};
  EXPECT_EQ(ParseModelSpec(config.dump())->ropes[0].scaling.kind, RopeScaling::Kind::kNone);
}

TEST(ModelSpec, UnknownChoicesAreNamed) {
  Json config = SmallConfig();
  config["architectures"] = {"MambaForCausalLM"};
  EXPECT_EQ(ParseModelSpec(config.dump()).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(config), AllOf(HasSubstr("MambaForCausalLM"), HasSubstr("LlamaForCausalLM")));
  config["auto_map"] = {{"AutoModelForCausalLM", "modeling_mamba.MambaForCausalLM"}};
  EXPECT_THAT(Message(config), AllOf(HasSubstr("\"auto_map\""), HasSubstr("never run")));
  config["architectures"] = {"LlamaForCausalLM"};
  EXPECT_TRUE(ParseModelSpec(config.dump()).ok()) << "code that nobody needs is not asked for";

  config = SmallConfig();
  config["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", 4.0}};
  EXPECT_EQ(ParseModelSpec(config.dump()).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(config),
              AllOf(HasSubstr("\"rope_scaling.rope_type\" is \"dynamic\""), HasSubstr("llama3")));

  config = SmallConfig();
  config["quantization_config"] = {{"quant_method", "awq"}};
  EXPECT_EQ(ParseModelSpec(config.dump()).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(config), HasSubstr("\"quantization_config.quant_method\" is \"awq\""));
  config["quantization_config"] = {{"quant_method", "fp8"}, {"fmt", "e5m2"}};
  EXPECT_THAT(Message(config), AllOf(HasSubstr("\"quantization_config.fmt\" is \"e5m2\""),
                                     HasSubstr("must be \"e4m3\"")));
}

TEST(ModelSpec, AKeyThatIsThereTwiceIsNamed) {
  std::string config = SmallConfig().dump();
  config.insert(1, R"("hidden_size": 12, )");
  EXPECT_THAT(std::string(ParseModelSpec(config).status().message()),
              HasSubstr("config.json has \"hidden_size\" twice"));
  EXPECT_EQ(ParseJson(R"({"a": [{"b": 1}, {"b": 2}], "b": {"a": 1}})", "x").status().message(), "");
  EXPECT_EQ(ParseJson(R"({"a": [{"b": 1, "c": 2, "b": 2}]})", "x").status().message(),
            "x has \"a.b\" twice");
}

// Numbers that are allowed each and together make a model that nobody has.
TEST(ModelSpec, MoreExpertsThanAFileCanHoldAreNamed) {
  Json config = SmallConfig();
  config.update({{"architectures", {"MixtralForCausalLM"}},
                 {"num_hidden_layers", 1024},
                 {"num_local_experts", 1024},
                 {"num_experts_per_tok", 2},
                 {"sliding_window", nullptr}});
  EXPECT_THAT(Message(config),
              AllOf(HasSubstr("\"num_local_experts\" is 1024"),
                    HasSubstr("\"num_hidden_layers\" 1024"), HasSubstr("3145728 tensors")));
  config["num_local_experts"] = 325;
  EXPECT_TRUE(ParseModelSpec(config.dump()).ok()) << Message(config);
}

TEST(ModelSpec, AScalingNeedsItsType) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    Json config = SmallConfig();
    config[key] = {{"rope_theta", 5000.0}};
    EXPECT_TRUE(ParseModelSpec(config.dump()).ok()) << Message(config);
    for (const char* scaling :
         {"factor", "low_freq_factor", "short_factor", "original_max_position_embeddings"}) {
      config[key] = {{scaling, 2.0}};
      EXPECT_THAT(Message(config), HasSubstr(std::string("no \"") + key + ".rope_type\""));
    }
  }
}

struct BadValue {
  const char* key;
  Json value;
  const char* allowed;  // part of the message besides key and value
};

TEST(ModelSpec, ImpossibleValuesNameKeyValueAndRange) {
  const BadValue cases[] = {
      {"architectures", "LlamaForCausalLM", "a list of one name"},
      {"architectures", Json::array(), "LlamaForCausalLM"},
      {"num_hidden_layers", 0, "1 to 1024"},
      {"num_hidden_layers", -3, "1 to 1024"},
      {"num_hidden_layers", 1025, "1 to 1024"},
      {"hidden_size", "10", "an integer"},
      {"hidden_size", 10.5, "an integer"},
      {"hidden_size", 131073, "1 to 131072"},
      {"hidden_size", UINT64_MAX, "1 to 131072"},
      {"hidden_size", nullptr, "an integer"},
      {"num_attention_heads", 0, "1 to 4096"},
      {"num_key_value_heads", 3, "a divisor of num_attention_heads, 4"},
      {"num_key_value_heads", 8, "1 to 4"},
      {"head_dim", 7, "an even number"},
      {"head_dim", 0, "1 to 512"},
      {"head_dim", 514, "1 to 512"},
      {"intermediate_size", -12, "an integer from 1"},
      {"intermediate_size", true, "an integer from 1"},
      {"vocab_size", 4194305, "1 to 4194304"},
      {"max_position_embeddings", 0, "1 to 16777216"},
      {"rms_norm_eps", -1e-5, "a number from"},
      {"rms_norm_eps", "1e-5", "a number from"},
      {"rope_theta", 0, "a number from 1"},
      {"rope_theta", -10000, "a number from 1"},
      {"hidden_act", "relu", "one of silu"},
      {"hidden_act", 3, "a string"},
      {"tie_word_embeddings", "yes", "true or false"},
      {"attention_bias", 1, "true or false"},
      {"torch_dtype", "int8", "one of bfloat16"},
      {"partial_rotary_factor", 0.5, "1 for LlamaForCausalLM"},
      {"rope_scaling", 8, "an object"},
  };
  for (const BadValue& bad : cases) {
    Json config = SmallConfig();
    config[bad.key] = bad.value;
    const absl::Status status = ParseModelSpec(config.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.key << " = " << bad.value;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("config.json"), HasSubstr(std::string("\"") + bad.key + "\""),
                      HasSubstr(bad.value.dump()), HasSubstr(bad.allowed)));
  }
}

TEST(ModelSpec, BadRopeScalingNamesThePath) {
  const Json good = {{"rope_type", "llama3"},
                     {"factor", 8.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 8192}};
  const BadValue cases[] = {
      {"factor", 0.5, "a number from 1"},
      {"factor", "8", "a number from 1"},
      {"low_freq_factor", 0, "a number from"},
      {"high_freq_factor", 1.0, "greater than low_freq_factor"},
      {"original_max_position_embeddings", -1, "an integer from 1"},
      {"rope_type", 3, "a string"},
  };
  for (const BadValue& bad : cases) {
    Json config = SmallConfig();
    config["rope_scaling"] = good;
    config["rope_scaling"][bad.key] = bad.value;
    EXPECT_THAT(Message(config), AllOf(HasSubstr(std::string("\"rope_scaling.") + bad.key + "\""),
                                       HasSubstr(bad.allowed)));
  }
  for (const char* key : {"factor", "low_freq_factor", "original_max_position_embeddings"}) {
    Json config = SmallConfig();
    config["rope_scaling"] = good;
    config["rope_scaling"].erase(key);
    EXPECT_THAT(Message(config), HasSubstr(std::string("has no \"rope_scaling.") + key + "\""));
  }
  Json config = SmallConfig();
  config["rope_scaling"] = good;
  config["rope_parameters"] = {{"rope_type", "default"}};
  EXPECT_THAT(Message(config), HasSubstr("say the same as \"rope_parameters\""));
}

TEST(ModelSpec, MissingSizesAreNamed) {
  for (const char* key :
       {"architectures", "num_hidden_layers", "hidden_size", "num_attention_heads",
        "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps"}) {
    Json config = SmallConfig();
    config.erase(key);
    EXPECT_THAT(Message(config), HasSubstr(std::string("config.json has no \"") + key + "\""));
  }
}

TEST(ModelSpec, HeadsMustDivideTheHiddenSizeOnlyWithoutHeadDim) {
  Json config = SmallConfig();  // 10 / 4 does not go, but head_dim is 6
  EXPECT_TRUE(ParseModelSpec(config.dump()).ok());
  config.erase("head_dim");
  EXPECT_THAT(Message(config), HasSubstr("a divisor of hidden_size, 10"));
  config["hidden_size"] = 12;  // heads of 3 elements
  EXPECT_THAT(Message(config), AllOf(HasSubstr("heads of 3 elements"), HasSubstr("even")));
}

TEST(ModelSpec, TextThatIsNoConfig) {
  const auto message = [](const std::string& text) {
    return std::string(ParseModelSpec(text).status().message());
  };
  EXPECT_THAT(message(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(message("{\"hidden_size\": 1e999}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(message("[1]"), HasSubstr("it must hold a JSON object"));
  EXPECT_THAT(message("{\"a\": \"\xff\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(message(std::string(100000, '[')), HasSubstr("levels deep"));
  EXPECT_THAT(message("{\"x\": \"" + std::string(5 << 20, 'x') + "\"}"),
              HasSubstr("at most 4194304"));
}

}  // namespace
}  // namespace tessera
