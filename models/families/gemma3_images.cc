// Gemma 3 from 4B on, which also sees images: its language model, for text alone. The tensors of
// the image part are passed over. Published configs say only what differs from the reference's
// defaults.

#include "base/status.h"
#include "models/config_parts.h"
#include "models/families/families.h"

namespace tessera {
namespace gemma3_images {
namespace {

constexpr std::string_view kPrefix = "language_model.";

absl::Status Parse(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_ASSIGN_OR_RETURN(const auto text, config.Object("text_config"));
  if (!text.has_value()) return config.Refuse("text_config", "an object");
  const ConfigReader::Json defaults = {
      {"vocab_size", 262208},      {"hidden_size", 2304},
      {"intermediate_size", 9216}, {"num_hidden_layers", 26},
      {"num_attention_heads", 8},  {"num_key_value_heads", 4},
      {"head_dim", 256},           {"max_position_embeddings", 131072},
      {"rms_norm_eps", 1e-6},      {"query_pre_attn_scalar", 256},
      {"sliding_window", 4096}};
  return kGemma3Family.parse(text->WithDefaults(defaults), spec);
}

std::vector<WeightSpec> Weights(const ModelSpec& spec) {
  std::vector<WeightSpec> table = kGemma3Family.weights(spec);
  for (WeightSpec& weight : table) weight.name.insert(0, kPrefix);
  return table;
}

bool Ignorable(const ModelSpec& spec, std::string_view tensor) {
  if (tensor.starts_with("vision_tower.") || tensor.starts_with("multi_modal_projector.")) {
    return true;
  }
  return tensor.starts_with(kPrefix) &&
         kGemma3Family.ignorable(spec, tensor.substr(kPrefix.size()));
}

}  // namespace
}  // namespace gemma3_images

const Family kGemma3ImagesFamily = {"gemma3", "Gemma3ForConditionalGeneration",
                                    gemma3_images::Parse, gemma3_images::Weights,
                                    gemma3_images::Ignorable};

}  // namespace tessera
