// Families with experts and latent attention: published models have the parameters that their
// publishers count, their caches and shards have the bytes that follow, and odd configs are
// refused.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "models/describe.h"
#include "models/kv_pool_plan.h"
#include "models/memory_plan.h"
#include "models/weight_spec.h"
#include "tests/models/model_files.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

Json Base(const char* architecture, int layers, int hidden, int heads, int vocabulary) {
  return {{"architectures", {architecture}},
          {"num_hidden_layers", layers},
          {"hidden_size", hidden},
          {"num_attention_heads", heads},
          {"vocab_size", vocabulary},
          {"max_position_embeddings", 32768},
          {"rms_norm_eps", 1e-6},
          {"torch_dtype", "bfloat16"},
          {"hidden_act", "silu"}};
}

Json With(Json config, const Json& more) {
  config.update(more);
  return config;
}

Json Mixtral8x7b() {
  return With(Base("MixtralForCausalLM", 32, 4096, 32, 32000), {{"num_key_value_heads", 8},
                                                                {"intermediate_size", 14336},
                                                                {"num_local_experts", 8},
                                                                {"num_experts_per_tok", 2},
                                                                {"sliding_window", nullptr}});
}

Json Qwen3Moe30b() {
  return With(Base("Qwen3MoeForCausalLM", 48, 2048, 32, 151936),
              {{"num_key_value_heads", 4},
               {"head_dim", 128},
               {"intermediate_size", 6144},
               {"num_experts", 128},
               {"num_experts_per_tok", 8},
               {"moe_intermediate_size", 768},
               {"norm_topk_prob", true},
               {"decoder_sparse_step", 1},
               {"mlp_only_layers", Json::array()}});
}

Json Qwen15Moe() {
  return With(Base("Qwen2MoeForCausalLM", 24, 2048, 16, 151936),
              {{"num_key_value_heads", 16},
               {"intermediate_size", 5632},
               {"num_experts", 60},
               {"num_experts_per_tok", 4},
               {"moe_intermediate_size", 1408},
               {"shared_expert_intermediate_size", 5632},
               {"norm_topk_prob", false}});
}

Json Phi35Moe() {
  return With(Base("PhiMoEForCausalLM", 32, 4096, 32, 32064), {{"num_key_value_heads", 8},
                                                               {"intermediate_size", 6400},
                                                               {"num_local_experts", 16},
                                                               {"num_experts_per_tok", 2},
                                                               {"attention_bias", true},
                                                               {"lm_head_bias", true}});
}

Json DeepseekV2Lite() {
  return With(Base("DeepseekV2ForCausalLM", 27, 2048, 16, 102400),
              {{"num_key_value_heads", 16},
               {"intermediate_size", 10944},
               {"q_lora_rank", nullptr},
               {"kv_lora_rank", 512},
               {"qk_nope_head_dim", 128},
               {"qk_rope_head_dim", 64},
               {"v_head_dim", 128},
               {"first_k_dense_replace", 1},
               {"moe_intermediate_size", 1408},
               {"n_routed_experts", 64},
               {"n_shared_experts", 2},
               {"num_experts_per_tok", 6},
               {"moe_layer_freq", 1},
               {"n_group", 1},
               {"topk_group", 1},
               {"topk_method", "greedy"},
               {"norm_topk_prob", false},
               {"scoring_func", "softmax"},
               {"routed_scaling_factor", 1.0},
               {"rope_scaling",
                {{"type", "yarn"},
                 {"factor", 40},
                 {"mscale", 0.707},
                 {"mscale_all_dim", 0.707},
                 {"original_max_position_embeddings", 4096}}}});
}

Json DeepseekV3() {
  Json config = With(DeepseekV2Lite(), Base("DeepseekV3ForCausalLM", 61, 7168, 128, 129280));
  return With(config, {{"num_key_value_heads", 128},
                       {"intermediate_size", 18432},
                       {"q_lora_rank", 1536},
                       {"first_k_dense_replace", 3},
                       {"moe_intermediate_size", 2048},
                       {"n_routed_experts", 256},
                       {"n_shared_experts", 1},
                       {"num_experts_per_tok", 8},
                       {"n_group", 8},
                       {"topk_group", 4},
                       {"topk_method", "noaux_tc"},
                       {"norm_topk_prob", true},
                       {"scoring_func", "sigmoid"},
                       {"routed_scaling_factor", 2.5},
                       {"num_nextn_predict_layers", 1},
                       {"quantization_config",
                        {{"quant_method", "fp8"},
                         {"fmt", "e4m3"},
                         {"activation_scheme", "dynamic"},
                         {"weight_block_size", {128, 128}}}}});
}

ModelSpec SpecFrom(const Json& config) {
  const absl::StatusOr<ModelSpec> spec = ParseModelSpec(config.dump());
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : ModelSpec();
}

std::string Refusal(const Json& config) {
  const absl::StatusOr<ModelSpec> spec = ParseModelSpec(config.dump());
  return spec.ok() ? "accepted" : std::string(spec.status().message());
}

TEST(ExpertFamilies, PublishedModelsHaveTheirParameters) {
  EXPECT_EQ(ParameterCount(SpecFrom(Mixtral8x7b())), 46'702'792'704);
  EXPECT_EQ(ParameterCount(SpecFrom(Qwen3Moe30b())), 30'532'122'624);
  EXPECT_EQ(ParameterCount(SpecFrom(Qwen15Moe())), 14'315'784'192);
  EXPECT_EQ(ParameterCount(SpecFrom(Phi35Moe())), 41'873'153'344);
  EXPECT_EQ(ParameterCount(SpecFrom(DeepseekV2Lite())), 15'706'484'224);
  EXPECT_EQ(ParameterCount(SpecFrom(DeepseekV3())), 671'026'419'200);
}

TEST(ExpertFamilies, ATokenMeetsAFewOfThem) {
  EXPECT_NEAR(static_cast<double>(ActiveParameterCount(SpecFrom(Mixtral8x7b()))), 12.9e9, 0.05e9);
  EXPECT_NEAR(static_cast<double>(ActiveParameterCount(SpecFrom(Qwen3Moe30b()))), 3.3e9, 0.1e9);
  EXPECT_NEAR(static_cast<double>(ActiveParameterCount(SpecFrom(DeepseekV3()))), 37.5e9, 0.5e9);
}

// 576 elements a token and layer, on every rank, where heads would have kept 32768.
TEST(LatentCache, IsCountedAsOneEntryOnEveryRank) {
  const ModelSpec spec = SpecFrom(DeepseekV3());
  ASSERT_EQ(spec.kv_groups.size(), 1u);
  EXPECT_EQ(spec.kv_groups[0].kind, KvGroup::Kind::kLatent);
  for (int tp : {1, 2, 4, 8}) {
    EXPECT_EQ(KvBytesPerToken(spec.kv_groups[0], {.tp = tp}), 61u * 576 * 2);
    EXPECT_EQ(KvBytesPerToken(spec.kv_groups[0], {.tp = tp, .kv_dtype = DType::kFloat32}),
              61u * 576 * 4);
  }
  const MemoryRequest request = {.tp = 8, .budget_bytes = 256ull << 30, .context_max = 8192};
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(spec, request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->kv_bytes_per_sequence, 8192u * 61 * 576 * 2);
  EXPECT_EQ(plan->kv_bytes, plan->num_blocks[0] * 16ull * 61 * 576 * 2);
  // A rank has an eighth of the experts and of the heads.
  EXPECT_NEAR(static_cast<double>(plan->weight_bytes()), 671.0e9 * 2 / 8, 5e9);
}

TEST(LatentCache, ScoresAreScaledByTheSquareOfTheirMagnitude) {
  const ModelSpec spec = SpecFrom(DeepseekV2Lite());
  const double magnitude = 0.1 * 0.707 * std::log(40.0) + 1.0;
  EXPECT_NEAR(spec.attention_scale, magnitude * magnitude / std::sqrt(192.0), 1e-7);
  EXPECT_DOUBLE_EQ(spec.ropes[0].scaling.attention_factor, 1.0);
  EXPECT_TRUE(spec.ropes[0].interleaved);
  EXPECT_EQ(spec.context_max, 163840);
}

TEST(ExpertShards, TheFullestRankIsPlanned) {
  const ModelSpec spec = SpecFrom(Qwen15Moe());  // 60 experts: 7 or 8 for each of eight ranks
  int64_t experts = 0;
  for (int rank = 0; rank < 8; ++rank) {
    const ExpertRange range = ExpertsOf(spec, rank, 8);
    EXPECT_EQ(range.begin, experts);
    EXPECT_TRUE(range.count == 7 || range.count == 8) << range.count;
    experts += range.count;
  }
  EXPECT_EQ(experts, 60);
  const MemoryRequest request = {.tp = 8, .budget_bytes = 64ull << 30, .context_max = 4096};
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(spec, request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  uint64_t fullest = 0;
  for (int rank = 0; rank < 8; ++rank) {
    uint64_t bytes = 0;
    for (const WeightSpec& weight : WeightTable(spec)) {
      const Shard shard = ShardOf(weight, spec, rank, 8);
      bytes += shard.rows_padded * shard.column_count * 2;
    }
    fullest = std::max(fullest, bytes);
  }
  EXPECT_GE(plan->weight_bytes(), fullest);
  EXPECT_LE(plan->weight_bytes(), fullest * 1.001);
}

TEST(ExpertShards, SlicesWithoutExpertsLeaveRanksWithout) {
  Json config = Mixtral8x7b();
  config["num_local_experts"] = 3;
  const ModelSpec spec = SpecFrom(config);
  int64_t experts = 0;
  for (int rank = 0; rank < 8; ++rank) experts += ExpertsOf(spec, rank, 8).count;
  EXPECT_EQ(experts, 3);
  EXPECT_EQ(ExpertsOf(spec, 0, 8).count, 0);
  EXPECT_EQ(ExpertsOf(spec, 1, 2).begin + ExpertsOf(spec, 1, 2).count, 3);
}

TEST(ExpertShards, OnlyWhatIsDividedMustBeDivisible) {
  Json config = Qwen15Moe();
  config["intermediate_size"] = 7;  // of layers that are not there
  EXPECT_TRUE(CheckTensorParallel(SpecFrom(config), 8).ok());
  config["mlp_only_layers"] = {3};
  EXPECT_THAT(std::string(CheckTensorParallel(SpecFrom(config), 2).message()),
              HasSubstr("intermediate size, 7"));
  config = Qwen15Moe();
  config["shared_expert_intermediate_size"] = 4 * 1001;
  EXPECT_TRUE(CheckTensorParallel(SpecFrom(config), 4).ok());
  EXPECT_THAT(std::string(CheckTensorParallel(SpecFrom(config), 8).message()),
              HasSubstr("shared expert's intermediate size, 4004"));
}

TEST(ExpertLayers, StepsAndExceptions) {
  Json config = Qwen3Moe30b();
  config["num_hidden_layers"] = 6;
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = {3};
  std::vector<bool> experts;
  for (const LayerSpec& layer : SpecFrom(config).layers) experts.push_back(layer.experts);
  EXPECT_EQ(experts, (std::vector<bool>{false, true, false, false, false, true}));
  config["mlp_only_layers"] = {6};
  EXPECT_THAT(Refusal(config), HasSubstr("\"mlp_only_layers\""));
}

TEST(Deepseek, RefusesWhatItsReferenceDoesNotDo) {
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, Json>>{{"attention_bias", true},
                                                 {"num_key_value_heads", 64},
                                                 {"moe_layer_freq", 2},
                                                 {"scoring_func", "softmax"},
                                                 {"topk_method", "greedy"},
                                                 {"n_group", 7},
                                                 {"n_group", 256},
                                                 {"topk_group", 9},
                                                 {"kv_lora_rank", 513},
                                                 {"qk_rope_head_dim", 63},
                                                 {"head_dim", 128}}) {
    const std::string message = Refusal(With(DeepseekV3(), {{key, value}}));
    EXPECT_THAT(message, HasSubstr(std::string(key) == "kv_lora_rank" ? "qk_rope_head_dim" : key))
        << key << " " << value;
  }
  Json config = DeepseekV3();
  config.erase("q_lora_rank");
  EXPECT_THAT(Refusal(config), HasSubstr("\"q_lora_rank\""));
  EXPECT_THAT(Refusal(With(DeepseekV2Lite(), {{"norm_topk_prob", true}})),
              HasSubstr("\"norm_topk_prob\""));
  config = DeepseekV3();
  config["topk_group"] = 1;  // 32 experts, enough for 8
  EXPECT_EQ(Refusal(config), "accepted");
  config["num_experts_per_tok"] = 33;
  EXPECT_THAT(Refusal(config), HasSubstr("\"topk_group\""));
}

TEST(Deepseek, LayersThatDraftAreIgnoredAndNoOthers) {
  const ModelSpec spec = SpecFrom(DeepseekV3());
  EXPECT_TRUE(IsIgnorableTensor(spec, "model.layers.61.eh_proj.weight"));
  EXPECT_TRUE(IsIgnorableTensor(spec, "model.layers.61.mlp.experts.7.up_proj.weight_scale_inv"));
  EXPECT_FALSE(IsIgnorableTensor(spec, "model.layers.62.eh_proj.weight"));
  EXPECT_FALSE(IsIgnorableTensor(spec, "model.layers.60.eh_proj.weight"));
  EXPECT_FALSE(IsIgnorableTensor(SpecFrom(DeepseekV2Lite()), "model.layers.27.eh_proj.weight"));
}

TEST(Deepseek, KeysAndValuesOfAHeadAreRunsOfOneTensor) {
  const ModelSpec spec = SpecFrom(DeepseekV3());
  for (const WeightSpec& weight : WeightTable(spec)) {
    if (weight.slot != WeightSlot::kValueUp) continue;
    EXPECT_EQ(weight.StoredShape(), (std::vector<int64_t>{128 * 256, 512}));
    EXPECT_EQ(weight.StoredRow(0), 128);
    EXPECT_EQ(weight.StoredRow(127), 255);
    EXPECT_EQ(weight.StoredRow(128), 256 + 128);
    const Shard shard = ShardOf(weight, spec, 3, 8);
    EXPECT_EQ(shard.row_begin, 3 * 16 * 128);
    EXPECT_EQ(shard.row_count, 16 * 128);
  }
}

TEST(Float8, OnlyWithBlocksOfE4m3) {
  const auto quantized = [](const Json& quantization) {
    return Refusal(With(Mixtral8x7b(), {{"quantization_config", quantization}}));
  };
  EXPECT_EQ(quantized({{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}}), "accepted");
  EXPECT_THAT(quantized({{"quant_method", "fp8"}}),
              HasSubstr("\"quantization_config.weight_block_size\""));
  EXPECT_THAT(quantized({{"quant_method", "gptq"}, {"weight_block_size", {128, 128}}}),
              HasSubstr("\"gptq\""));
  EXPECT_THAT(
      quantized({{"quant_method", "fp8"}, {"fmt", "e5m2"}, {"weight_block_size", {128, 128}}}),
      HasSubstr("not supported"));
  for (const Json& block : {Json(128), Json::array({128}), Json::array({0, 128}),
                            Json::array({128, -1}), Json::array({1.5, 2})}) {
    EXPECT_THAT(quantized({{"quant_method", "fp8"}, {"weight_block_size", block}}),
                HasSubstr("\"quantization_config.weight_block_size\""));
  }
}

TEST(Describe, SaysWhatIsOfExperts) {
  EXPECT_THAT(
      DescribeModel(SpecFrom(DeepseekV3()), ""),
      AllOf(HasSubstr("128 of 128 + 64 elements, values of 128; the cache keeps 512 + 64"),
            HasSubstr("8 of 256, intermediate 2048, from 4 of 8 groups, beside one of 2048"),
            HasSubstr("in 58 of 61 layers"), HasSubstr("active         37."),
            HasSubstr("float8 with a scale for 128 x 128"),
            HasSubstr("draft further tokens: 1, passed over"),
            Not(HasSubstr("elements, elements"))));
  EXPECT_THAT(DescribeModel(SpecFrom(Phi35Moe()), ""),
              AllOf(HasSubstr("layer norms"), HasSubstr("head"), HasSubstr("2 of 16")));
}

}  // namespace
}  // namespace tessera
