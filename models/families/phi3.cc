// Phi 3, 3.5 (mini and medium), 4 and 4-mini: a Llama whose query, key and value are one stored
// tensor, as are gate and up. Some have a sliding window, some longrope, 4-mini turns three
// quarters of a head.

#include "base/status.h"
#include "models/config_parts.h"
#include "models/families/families.h"
#include "models/families/standard.h"

namespace tessera {
namespace phi3 {
namespace {

absl::StatusOr<int64_t> ParseRotarySize(const ConfigReader& config, const ModelSpec& spec) {
  TESSERA_ASSIGN_OR_RETURN(const double part,
                           config.NumberOr("partial_rotary_factor", 1.0, 0.0, 1.0));
  const int64_t size = static_cast<int64_t>(static_cast<double>(spec.head_size) * part);
  if (size < 2 || size % 2 != 0) {
    return config.Refuse("partial_rotary_factor", "a part of the head that is even and at least 2");
  }
  return size;
}

absl::Status Parse(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseSizes(config, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->activation, ParseActivation(config, "hidden_act"));
  TESSERA_ASSIGN_OR_RETURN(const int64_t rotary_size, ParseRotarySize(config, *spec));
  TESSERA_ASSIGN_OR_RETURN(const RotarySpec rope, ParseRotary(config, *spec, rotary_size));
  spec->ropes = {rope};
  TESSERA_ASSIGN_OR_RETURN(const int64_t window, ParseWindow(config, 0));
  TESSERA_RETURN_IF_ERROR(ParseLayers(
      config, window, [](int64_t) { return true; }, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->tied_head, config.BoolOr("tie_word_embeddings", false));
  TESSERA_ASSIGN_OR_RETURN(const bool biased, config.BoolOr("attention_bias", false));
  if (biased) return config.Refuse("attention_bias", "false: the architecture has no biases");
  return absl::OkStatus();
}

std::vector<WeightSpec> Weights(const ModelSpec& spec) {
  return WeightsAround(spec, [](LayerTable& layer) {
    layer.AddNorms();
    layer.AddFusedAttention();
    layer.AddFusedMlp();
  });
}

}  // namespace
}  // namespace phi3

const Family kPhi3Family = {"phi3", "Phi3ForCausalLM", phi3::Parse, phi3::Weights,
                            StandardIgnorable};

}  // namespace tessera
