// Qwen 2 and 2.5 (biases on query, key and value; also the R1 distills of Qwen) and Qwen 3 (head
// norms instead). Windows, where a config switches them on, are on the layers from
// max_window_layers on.

#include "base/status.h"
#include "models/config_parts.h"
#include "models/families/families.h"
#include "models/families/standard.h"

namespace tessera {
namespace qwen {
namespace {

absl::Status ParseCommon(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseSizes(config, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->activation, ParseActivation(config, "hidden_act"));
  TESSERA_ASSIGN_OR_RETURN(const RotarySpec rope, ParseRotary(config, *spec, spec->head_size));
  spec->ropes = {rope};
  TESSERA_ASSIGN_OR_RETURN(spec->tied_head, config.BoolOr("tie_word_embeddings", false));
  TESSERA_ASSIGN_OR_RETURN(const bool slides, config.BoolOr("use_sliding_window", false));
  // Published configs carry a window that is switched off.
  TESSERA_ASSIGN_OR_RETURN(const int64_t window, ParseWindow(config, 4096));
  TESSERA_ASSIGN_OR_RETURN(const int64_t first,
                           config.IntOr("max_window_layers", 28, 0, INT32_MAX));
  return ParseLayers(
      config, slides ? window : 0, [first](int64_t layer) { return layer >= first; }, spec);
}

absl::Status ParseQwen2(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseCommon(config, spec));
  spec->qkv_bias = true;
  return absl::OkStatus();
}

absl::Status ParseQwen3(const ConfigReader& config, ModelSpec* spec) {
  // The reference's default does not follow from the other sizes.
  if (!config.Has("head_dim")) return config.Refuse("head_dim", "given for Qwen3ForCausalLM");
  TESSERA_RETURN_IF_ERROR(ParseCommon(config, spec));
  spec->qk_norm = true;
  TESSERA_ASSIGN_OR_RETURN(spec->qkv_bias, config.BoolOr("attention_bias", false));
  spec->output_bias = spec->qkv_bias;
  return absl::OkStatus();
}

}  // namespace
}  // namespace qwen

const Family kQwen2Family = {"qwen2", "Qwen2ForCausalLM", qwen::ParseQwen2, StandardWeights,
                             StandardIgnorable};
const Family kQwen3Family = {"qwen3", "Qwen3ForCausalLM", qwen::ParseQwen3, StandardWeights,
                             StandardIgnorable};

}  // namespace tessera
