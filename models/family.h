// The registry of model families: one row per architecture name. A family turns config.json into a
// ModelSpec and a ModelSpec into its tensor table; everything else in this folder asks it here.
// To add one: a file in families/, a line in families/families.h and a row in family.cc.

#ifndef TESSERA_MODELS_FAMILY_H_
#define TESSERA_MODELS_FAMILY_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "models/config_reader.h"
#include "models/model_spec.h"
#include "models/weight_spec.h"

namespace tessera {

struct Family {
  std::string_view name;          // "llama"
  std::string_view architecture;  // as config.json's "architectures" has it
  // Fills the numbers and choices of `spec`; architecture, family and dtype are set already, the
  // KV groups follow from the layers.
  absl::Status (*parse)(const ConfigReader& config, ModelSpec* spec);
  // Every slot of the model exactly once, see WeightTable.
  std::vector<WeightSpec> (*weights)(const ModelSpec& spec);
  // Tensors that some exporters add and that carry no weights.
  bool (*ignorable)(const ModelSpec& spec, std::string_view tensor);
};

absl::Span<const Family* const> Families();

// Null if there is none of that name.
const Family* FindFamily(std::string_view architecture);

// For messages: "LlamaForCausalLM, ...".
std::string SupportedArchitectures();

}  // namespace tessera

#endif  // TESSERA_MODELS_FAMILY_H_
