// DeepSeek V2-Lite and V2, V3 and R1: latent attention, dense layers below ones with shared and
// routed experts. V2 chooses by softmax, the large one in groups by their best expert; V3 by
// sigmoid and correction bias, in groups by their best two, and is published in float8 with block
// scales.

#include <cmath>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "models/config_parts.h"
#include "models/families/families.h"
#include "models/families/standard.h"

namespace tessera {
namespace deepseek {
namespace {

absl::Status RefuseUnless(const ConfigReader& config, const std::string& key,
                          const ConfigReader::Json& value, const std::string& allowed) {
  const ConfigReader::Json* found = config.Find(key);
  if (found == nullptr || *found == value) return absl::OkStatus();
  return config.Refuse(key, allowed);
}

absl::Status ParseLatent(const ConfigReader& config, ModelSpec* spec) {
  LatentSpec& latent = spec->latent;
  TESSERA_ASSIGN_OR_RETURN(spec->num_heads, config.Int("num_attention_heads", 1, kHeadsMax));
  TESSERA_RETURN_IF_ERROR(RefuseUnless(config, "num_key_value_heads", spec->num_heads,
                                       absl::StrCat("num_attention_heads, ", spec->num_heads)));
  // Null means that there is none; left out would mean the reference's default.
  if (!config.Mentions("q_lora_rank")) return config.Refuse("q_lora_rank", "an integer or null");
  TESSERA_ASSIGN_OR_RETURN(latent.query_rank, config.IntOr("q_lora_rank", 0, 1, kQueryRankMax));
  TESSERA_ASSIGN_OR_RETURN(latent.kv_rank, config.Int("kv_lora_rank", 1, kLatentEntryMax));
  TESSERA_ASSIGN_OR_RETURN(latent.nope_size, config.Int("qk_nope_head_dim", 1, kHeadSizeMax));
  TESSERA_ASSIGN_OR_RETURN(latent.rope_size, config.Int("qk_rope_head_dim", 2, kHeadSizeMax));
  TESSERA_ASSIGN_OR_RETURN(latent.value_size, config.Int("v_head_dim", 1, kHeadSizeMax));
  if (latent.rope_size % 2 != 0 || latent.entry_size() > kLatentEntryMax) {
    return config.Refuse(
        "qk_rope_head_dim",
        absl::StrCat("an even number, with kv_lora_rank at most ", kLatentEntryMax));
  }
  // The reference writes one, meaning what turns.
  TESSERA_RETURN_IF_ERROR(RefuseUnless(config, "head_dim", latent.rope_size,
                                       absl::StrCat("qk_rope_head_dim, ", latent.rope_size)));
  spec->num_kv_heads = 1;
  spec->head_size = latent.entry_size();
  TESSERA_ASSIGN_OR_RETURN(RotarySpec rope, ParseRotary(config, *spec, latent.rope_size));
  TESSERA_ASSIGN_OR_RETURN(rope.interleaved, config.BoolOr("rope_interleave", true));
  const double magnitude = rope.scaling.score_magnitude;
  const double width = static_cast<double>(latent.nope_size + latent.rope_size);
  spec->attention_scale = static_cast<float>(magnitude * magnitude / std::sqrt(width));
  spec->ropes = {rope};
  return absl::OkStatus();
}

absl::Status ParseGroups(const ConfigReader& config, MoeSpec* moe) {
  TESSERA_ASSIGN_OR_RETURN(moe->num_groups, config.Int("n_group", 1, moe->num_experts));
  const int64_t size = moe->num_experts / moe->num_groups;
  if (moe->num_experts % moe->num_groups != 0 || size < moe->group_top) {
    return config.Refuse("n_group",
                         absl::StrCat("a divisor of n_routed_experts, ", moe->num_experts,
                                      ", that leaves groups of at least ", moe->group_top));
  }
  TESSERA_ASSIGN_OR_RETURN(moe->groups_per_token, config.Int("topk_group", 1, moe->num_groups));
  if (moe->groups_per_token * size < moe->experts_per_token) {
    return config.Refuse("topk_group", "enough for num_experts_per_tok");
  }
  return absl::OkStatus();
}

absl::Status ParseCommon(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseWidths(config, spec));
  TESSERA_RETURN_IF_ERROR(ParseLatent(config, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->activation, ParseActivation(config, "hidden_act"));
  TESSERA_ASSIGN_OR_RETURN(spec->tied_head, config.BoolOr("tie_word_embeddings", false));
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    TESSERA_RETURN_IF_ERROR(RefuseUnless(config, key, false, "false: none is published with one"));
  }
  TESSERA_RETURN_IF_ERROR(RefuseUnless(config, "moe_layer_freq", 1, "1, as in the reference"));
  TESSERA_ASSIGN_OR_RETURN(const int64_t dense,
                           config.Int("first_k_dense_replace", 0, spec->num_layers));
  spec->layers.resize(spec->num_layers);
  for (int64_t layer = dense; layer < spec->num_layers; ++layer) spec->layers[layer].experts = true;

  MoeSpec& moe = spec->moe;
  TESSERA_ASSIGN_OR_RETURN(moe.num_experts, config.Int("n_routed_experts", 1, kExpertsMax));
  TESSERA_ASSIGN_OR_RETURN(moe.experts_per_token, ParseExpertsPerToken(config, moe.num_experts));
  TESSERA_ASSIGN_OR_RETURN(moe.expert_intermediate,
                           config.Int("moe_intermediate_size", 1, kIntermediateSizeMax));
  TESSERA_ASSIGN_OR_RETURN(const int64_t shared, config.IntOr("n_shared_experts", 0, 0, 1024));
  moe.shared_intermediate = shared * moe.expert_intermediate;
  TESSERA_ASSIGN_OR_RETURN(moe.routed_scale, config.Number("routed_scaling_factor", 1e-6, 1e6));
  moe.float32_logits = true;
  return absl::OkStatus();
}

absl::Status ParseV2(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseCommon(config, spec));
  TESSERA_RETURN_IF_ERROR(RefuseUnless(config, "scoring_func", "softmax", "softmax"));
  TESSERA_RETURN_IF_ERROR(
      RefuseUnless(config, "norm_topk_prob", false, "false: the reference does not normalize"));
  TESSERA_ASSIGN_OR_RETURN(const std::string method, config.StringOr("topk_method", "greedy"));
  if (method == "greedy") return absl::OkStatus();
  if (method == "group_limited_greedy") return ParseGroups(config, &spec->moe);
  return config.Refuse("topk_method", "greedy or group_limited_greedy");
}

absl::Status ParseV3(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseCommon(config, spec));
  TESSERA_RETURN_IF_ERROR(RefuseUnless(config, "scoring_func", "sigmoid", "sigmoid"));
  TESSERA_RETURN_IF_ERROR(RefuseUnless(config, "topk_method", "noaux_tc", "noaux_tc"));
  spec->moe.scoring = MoeSpec::Scoring::kSigmoid;
  spec->moe.correction_bias = true;
  spec->moe.group_top = 2;
  TESSERA_ASSIGN_OR_RETURN(spec->moe.normalize, config.BoolOr("norm_topk_prob", true));
  TESSERA_ASSIGN_OR_RETURN(spec->draft_layers,
                           config.IntOr("num_nextn_predict_layers", 0, 0, kLayersMax));
  return ParseGroups(config, &spec->moe);
}

std::vector<WeightSpec> Weights(const ModelSpec& spec) {
  return WeightsAround(spec, [](LayerTable& layer) {
    layer.AddNorms();
    layer.AddLatentAttention();
    layer.AddMlpOrExperts({});
  });
}

// Layers behind the last predict the tokens after the next.
bool Ignorable(const ModelSpec& spec, std::string_view tensor) {
  constexpr std::string_view kLayers = "model.layers.";
  int64_t layer = 0;
  if (tensor.starts_with(kLayers)) {
    const std::string rest(tensor.substr(kLayers.size()));
    if (absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) && layer >= spec.num_layers &&
        layer < spec.num_layers + spec.draft_layers) {
      return true;
    }
  }
  return StandardIgnorable(spec, tensor);
}

}  // namespace
}  // namespace deepseek

const Family kDeepseekV2Family = {"deepseek_v2", "DeepseekV2ForCausalLM", deepseek::ParseV2,
                                  deepseek::Weights, StandardIgnorable};
const Family kDeepseekV3Family = {"deepseek_v3", "DeepseekV3ForCausalLM", deepseek::ParseV3,
                                  deepseek::Weights, deepseek::Ignorable};

}  // namespace tessera
