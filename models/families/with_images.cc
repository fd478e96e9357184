// Models that also see images, for text alone: Gemma 3 from 4B on, Mistral Small 3.1 and 3.2. Their
// config has the language model's under "text_config", their tensors have its names behind
// "language_model."; those of the image part are passed over.

#include "base/status.h"
#include "models/config_parts.h"
#include "models/families/families.h"

namespace tessera {
namespace with_images {
namespace {

constexpr std::string_view kPrefix = "language_model.";

absl::StatusOr<ConfigReader> TextConfig(const ConfigReader& config) {
  TESSERA_ASSIGN_OR_RETURN(const auto text, config.Object("text_config"));
  if (!text.has_value()) return config.Refuse("text_config", "an object");
  return *text;
}

// Published configs say only what differs from the reference's defaults.
absl::Status ParseGemma3(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_ASSIGN_OR_RETURN(const ConfigReader text, TextConfig(config));
  const ConfigReader::Json defaults = {
      {"vocab_size", 262208},      {"hidden_size", 2304},
      {"intermediate_size", 9216}, {"num_hidden_layers", 26},
      {"num_attention_heads", 8},  {"num_key_value_heads", 4},
      {"head_dim", 256},           {"max_position_embeddings", 131072},
      {"rms_norm_eps", 1e-6},      {"query_pre_attn_scalar", 256},
      {"sliding_window", 4096}};
  return kGemma3Family.parse(text.WithDefaults(defaults), spec);
}

absl::Status ParseMistral3(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_ASSIGN_OR_RETURN(const ConfigReader text, TextConfig(config));
  TESSERA_ASSIGN_OR_RETURN(const std::string type, text.StringOr("model_type", "mistral"));
  if (type != "mistral") return text.RefuseForNow("model_type", "\"mistral\"");
  return kMistralFamily.parse(text, spec);
}

template <const Family& text>
std::vector<WeightSpec> Weights(const ModelSpec& spec) {
  std::vector<WeightSpec> table = text.weights(spec);
  for (WeightSpec& weight : table) weight.name.insert(0, kPrefix);
  return table;
}

template <const Family& text>
bool Ignorable(const ModelSpec& spec, std::string_view tensor) {
  if (tensor.starts_with("vision_tower.") || tensor.starts_with("multi_modal_projector.")) {
    return true;
  }
  return tensor.starts_with(kPrefix) && text.ignorable(spec, tensor.substr(kPrefix.size()));
}

}  // namespace
}  // namespace with_images

const Family kGemma3ImagesFamily = {"gemma3", "Gemma3ForConditionalGeneration",
                                    with_images::ParseGemma3, with_images::Weights<kGemma3Family>,
                                    with_images::Ignorable<kGemma3Family>};
const Family kMistral3ImagesFamily = {
    "mistral", "Mistral3ForConditionalGeneration", with_images::ParseMistral3,
    with_images::Weights<kMistralFamily>, with_images::Ignorable<kMistralFamily>};

}  // namespace tessera
