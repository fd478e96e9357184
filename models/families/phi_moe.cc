// Phi-3.5-MoE: two of sixteen experts for every token, chosen by a mixer of its own, around layer
// norms; biases on the attention and the head. Published under a name of its authors and computed
// under the reference's.

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "models/config_parts.h"
#include "models/families/families.h"
#include "models/families/standard.h"

namespace tessera {
namespace phi_moe {
namespace {

absl::Status Parse(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseSizes(config, spec));
  if (spec->head_size * spec->num_heads != spec->hidden_size) {
    return config.Refuse("head_dim", "hidden_size / num_attention_heads, or absent");
  }
  TESSERA_ASSIGN_OR_RETURN(spec->activation, ParseActivation(config, "hidden_act"));
  TESSERA_ASSIGN_OR_RETURN(RotarySpec rope, ParseRotary(config, *spec, spec->head_size));
  if (!config.Has("rope_theta") && !config.Has("rope_parameters")) rope.theta = 1e6;
  spec->ropes = {rope};
  TESSERA_ASSIGN_OR_RETURN(const int64_t window, ParseWindow(config, 0));
  TESSERA_RETURN_IF_ERROR(ParseLayers(
      config, window, [](int64_t) { return true; }, spec));
  for (LayerSpec& layer : spec->layers) layer.experts = true;
  TESSERA_ASSIGN_OR_RETURN(spec->tied_head, config.BoolOr("tie_word_embeddings", false));
  TESSERA_ASSIGN_OR_RETURN(spec->qkv_bias, config.BoolOr("attention_bias", false));
  spec->output_bias = spec->qkv_bias;
  TESSERA_ASSIGN_OR_RETURN(spec->head_bias, config.BoolOr("lm_head_bias", false));
  spec->layer_norm = true;
  MoeSpec& moe = spec->moe;
  TESSERA_ASSIGN_OR_RETURN(moe.num_experts, config.Int("num_local_experts", 2, kExpertsMax));
  TESSERA_ASSIGN_OR_RETURN(moe.experts_per_token, ParseExpertsPerToken(config, moe.num_experts));
  if (moe.experts_per_token != 2) {
    return config.Refuse("num_experts_per_tok", absl::StrCat("2 for ", spec->architecture));
  }
  moe.expert_intermediate = spec->intermediate_size;
  moe.scoring = MoeSpec::Scoring::kSparseMixer;
  TESSERA_ASSIGN_OR_RETURN(moe.jitter, config.NumberOr("router_jitter_noise", 0.01, 0.0, 1e3));
  return absl::OkStatus();
}

std::vector<WeightSpec> Weights(const ModelSpec& spec) {
  return WeightsAround(spec, [](LayerTable& layer) {
    layer.AddNorms();
    layer.AddAttention();
    layer.AddExperts(
        {.prefix = "block_sparse_moe.", .gate = "w1", .up = "w3", .down = "w2", .shared = ""});
  });
}

}  // namespace
}  // namespace phi_moe

const Family kPhiMoeAuthorsFamily = {"phimoe", "PhiMoEForCausalLM", phi_moe::Parse,
                                     phi_moe::Weights, StandardIgnorable};
const Family kPhiMoeFamily = {"phimoe", "PhimoeForCausalLM", phi_moe::Parse, phi_moe::Weights,
                              StandardIgnorable};

}  // namespace tessera
