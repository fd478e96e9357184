// Llama 2, 3, 3.1, 3.2, 3.3, TinyLlama and whatever else says LlamaForCausalLM. Defaults of missing
// keys are those of the reference implementation's LlamaConfig; sizes have no default.

#include "base/status.h"
#include "models/config_parts.h"
#include "models/families/families.h"
#include "models/families/standard.h"

namespace tessera {
namespace llama {
namespace {

absl::Status Parse(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseSizes(config, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->activation, ParseActivation(config, "hidden_act"));
  TESSERA_ASSIGN_OR_RETURN(const RotarySpec rope, ParseRotary(config, *spec, spec->head_size));
  spec->ropes = {rope};
  TESSERA_ASSIGN_OR_RETURN(spec->tied_head, config.BoolOr("tie_word_embeddings", false));
  // One switch for all four projections of the attention, another for all three of the MLP.
  TESSERA_ASSIGN_OR_RETURN(spec->qkv_bias, config.BoolOr("attention_bias", false));
  spec->output_bias = spec->qkv_bias;
  TESSERA_ASSIGN_OR_RETURN(spec->mlp_bias, config.BoolOr("mlp_bias", false));
  return absl::OkStatus();
}

}  // namespace
}  // namespace llama

const Family kLlamaFamily = {"llama", "LlamaForCausalLM", llama::Parse, StandardWeights,
                             StandardIgnorable};

}  // namespace tessera
