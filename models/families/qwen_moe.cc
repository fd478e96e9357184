// Qwen with experts: 1.5-MoE and 2-57B (Qwen2Moe: biases on query, key and value, a shared expert
// behind a gate), 3-30B, 3-235B and 3-Coder (Qwen3Moe: head norms, no shared expert). Some layers
// may be dense.

#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "models/config_parts.h"
#include "models/families/families.h"
#include "models/families/standard.h"

namespace tessera {
namespace qwen_moe {
namespace {

// Every decoder_sparse_step-th layer has experts, but for those of mlp_only_layers.
absl::Status ParseSparseLayers(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_ASSIGN_OR_RETURN(const int64_t step,
                           config.IntOr("decoder_sparse_step", 1, 1, kLayersMax));
  for (int64_t layer = 0; layer < spec->num_layers; ++layer) {
    spec->layers[layer].experts = (layer + 1) % step == 0;
  }
  const ConfigReader::Json* dense = config.Find("mlp_only_layers");
  if (dense == nullptr) return absl::OkStatus();
  const std::string allowed = absl::StrCat("a list of layers below ", spec->num_layers);
  if (!dense->is_array()) return config.Refuse("mlp_only_layers", allowed);
  for (const ConfigReader::Json& layer : *dense) {
    if (!layer.is_number_unsigned() || layer >= spec->num_layers) {
      return config.Refuse("mlp_only_layers", allowed);
    }
    spec->layers[layer.get<size_t>()].experts = false;
  }
  return absl::OkStatus();
}

absl::Status ParseCommon(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseSizes(config, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->activation, ParseActivation(config, "hidden_act"));
  TESSERA_ASSIGN_OR_RETURN(const RotarySpec rope, ParseRotary(config, *spec, spec->head_size));
  spec->ropes = {rope};
  TESSERA_ASSIGN_OR_RETURN(spec->tied_head, config.BoolOr("tie_word_embeddings", false));
  spec->layers.resize(spec->num_layers);
  TESSERA_RETURN_IF_ERROR(ParseSparseLayers(config, spec));
  // The references of the two and the serving engines mean different layers by it.
  TESSERA_ASSIGN_OR_RETURN(const bool slides, config.BoolOr("use_sliding_window", false));
  if (slides) {
    return config.Refuse("use_sliding_window", absl::StrCat("false for ", spec->architecture));
  }
  MoeSpec& moe = spec->moe;
  TESSERA_ASSIGN_OR_RETURN(moe.num_experts, config.Int("num_experts", 1, kExpertsMax));
  TESSERA_ASSIGN_OR_RETURN(moe.experts_per_token, ParseExpertsPerToken(config, moe.num_experts));
  TESSERA_ASSIGN_OR_RETURN(moe.expert_intermediate,
                           config.Int("moe_intermediate_size", 1, kIntermediateSizeMax));
  TESSERA_ASSIGN_OR_RETURN(moe.normalize, config.BoolOr("norm_topk_prob", false));
  return absl::OkStatus();
}

absl::Status ParseQwen2Moe(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseCommon(config, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->qkv_bias, config.BoolOr("qkv_bias", true));
  TESSERA_ASSIGN_OR_RETURN(spec->moe.shared_intermediate,
                           config.Int("shared_expert_intermediate_size", 8, kIntermediateSizeMax));
  spec->moe.shared_gate = true;
  return absl::OkStatus();
}

absl::Status ParseQwen3Moe(const ConfigReader& config, ModelSpec* spec) {
  // The reference's default does not follow from the other sizes.
  if (!config.Has("head_dim")) return config.Refuse("head_dim", "given for Qwen3MoeForCausalLM");
  TESSERA_RETURN_IF_ERROR(ParseCommon(config, spec));
  spec->qk_norm = true;
  TESSERA_ASSIGN_OR_RETURN(spec->qkv_bias, config.BoolOr("attention_bias", false));
  spec->output_bias = spec->qkv_bias;
  return absl::OkStatus();
}

std::vector<WeightSpec> Weights(const ModelSpec& spec) {
  return WeightsAround(spec, [](LayerTable& layer) {
    layer.AddNorms();
    layer.AddAttention();
    layer.AddMlpOrExperts({.shared = "shared_expert"});
  });
}

}  // namespace
}  // namespace qwen_moe

const Family kQwen2MoeFamily = {"qwen2_moe", "Qwen2MoeForCausalLM", qwen_moe::ParseQwen2Moe,
                                qwen_moe::Weights, StandardIgnorable};
const Family kQwen3MoeFamily = {"qwen3_moe", "Qwen3MoeForCausalLM", qwen_moe::ParseQwen3Moe,
                                qwen_moe::Weights, StandardIgnorable};

}  // namespace tessera
