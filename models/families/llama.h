// The Llama family: Llama 2, 3, 3.1, 3.2, TinyLlama and whatever else says LlamaForCausalLM. Called
// through the registry in family.cc only.

#ifndef TESSERA_MODELS_FAMILIES_LLAMA_H_
#define TESSERA_MODELS_FAMILIES_LLAMA_H_

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "models/config_reader.h"
#include "models/model_spec.h"
#include "models/weight_spec.h"

namespace tessera::llama {

absl::Status Parse(const ConfigReader& config, ModelSpec* spec);
std::vector<WeightSpec> Weights(const ModelSpec& spec);
bool Ignorable(const ModelSpec& spec, std::string_view tensor);

}  // namespace tessera::llama

#endif  // TESSERA_MODELS_FAMILIES_LLAMA_H_
