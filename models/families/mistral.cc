// Mistral: 7B (v0.1 with a sliding window, later ones without), Nemo, Small 3, Large 2 under
// MistralForCausalLM; Ministral, whose layers may differ in their window, under its own name.

#include <algorithm>

#include "base/status.h"
#include "models/config_parts.h"
#include "models/families/families.h"
#include "models/families/standard.h"

namespace tessera {
namespace mistral {
namespace {

// Where a config has no such key. Null means that there is no window.
constexpr int64_t kWindowDefault = 4096;

absl::Status ParseMinistral(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseSizes(config, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->activation, ParseActivation(config, "hidden_act"));
  TESSERA_ASSIGN_OR_RETURN(const RotarySpec rope, ParseRotary(config, *spec, spec->head_size));
  spec->ropes = {rope};
  TESSERA_ASSIGN_OR_RETURN(const int64_t window, ParseWindow(config, kWindowDefault));
  TESSERA_RETURN_IF_ERROR(ParseLayers(
      config, window, [](int64_t) { return true; }, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->tied_head, config.BoolOr("tie_word_embeddings", false));
  return absl::OkStatus();
}

absl::Status ParseMistral(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseMinistral(config, spec));
  // The reference passes over this key here, so a checkpoint that needs it would be computed wrong.
  const bool differ =
      std::any_of(spec->layers.begin(), spec->layers.end(),
                  [&](const LayerSpec& layer) { return layer.window != spec->layers[0].window; });
  if (differ) {
    return config.Refuse("layer_types",
                         "the same for all layers of a MistralForCausalLM; "
                         "MinistralForCausalLM may mix them");
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace mistral

const Family kMistralFamily = {"mistral", "MistralForCausalLM", mistral::ParseMistral,
                               StandardWeights, StandardIgnorable};
const Family kMinistralFamily = {"mistral", "MinistralForCausalLM", mistral::ParseMinistral,
                                 StandardWeights, StandardIgnorable};

}  // namespace tessera
