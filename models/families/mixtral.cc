// Mixtral 8x7B and 8x22B: a Mistral whose MLPs are experts, two of eight for every token.

#include "base/status.h"
#include "models/config_parts.h"
#include "models/families/families.h"
#include "models/families/standard.h"

namespace tessera {
namespace mixtral {
namespace {

absl::Status Parse(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseSizes(config, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->activation, ParseActivation(config, "hidden_act"));
  TESSERA_ASSIGN_OR_RETURN(RotarySpec rope, ParseRotary(config, *spec, spec->head_size));
  // The one family whose reference has another default.
  if (!config.Has("rope_theta") && !config.Has("rope_parameters")) rope.theta = 1e6;
  spec->ropes = {rope};
  TESSERA_ASSIGN_OR_RETURN(const int64_t window, ParseWindow(config, 0));
  TESSERA_RETURN_IF_ERROR(ParseLayers(
      config, window, [](int64_t) { return true; }, spec));
  for (LayerSpec& layer : spec->layers) layer.experts = true;
  TESSERA_ASSIGN_OR_RETURN(spec->tied_head, config.BoolOr("tie_word_embeddings", false));
  MoeSpec& moe = spec->moe;
  TESSERA_ASSIGN_OR_RETURN(moe.num_experts, config.Int("num_local_experts", 1, kExpertsMax));
  TESSERA_ASSIGN_OR_RETURN(moe.experts_per_token, ParseExpertsPerToken(config, moe.num_experts));
  moe.expert_intermediate = spec->intermediate_size;
  moe.normalize = true;
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
}  // namespace mixtral

const Family kMixtralFamily = {"mixtral", "MixtralForCausalLM", mixtral::Parse, mixtral::Weights,
                               StandardIgnorable};

}  // namespace tessera
