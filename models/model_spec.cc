// ParseModelSpec and what follows from a spec alone. The families do the architecture's part.

#include "models/model_spec.h"

#include <cmath>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "models/config_parts.h"
#include "models/config_reader.h"
#include "models/family.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

constexpr size_t kEosTokensMax = 256;
constexpr double kTemperatureMax = 100.0;

absl::StatusOr<std::string> Architecture(const ConfigReader& config) {
  const nlohmann::json* list = config.Find("architectures");
  if (list == nullptr || !list->is_array() || list->size() != 1 || !list->front().is_string()) {
    return config.Refuse("architectures", absl::StrCat("a list of one name; supported are ",
                                                       SupportedArchitectures()));
  }
  return list->front().get<std::string>();
}

// A token id, a list of them, or nothing.
absl::StatusOr<std::vector<int32_t>> TokenIds(const ConfigReader& config, const std::string& key) {
  std::vector<int32_t> ids;
  const nlohmann::json* value = config.Find(key);
  if (value == nullptr) return ids;
  const nlohmann::json list = value->is_array() ? *value : nlohmann::json::array({*value});
  const std::string allowed = absl::StrCat("a token id from 0 to ", kVocabSizeMax - 1,
                                           ", or a list of at most ", kEosTokensMax, " of them");
  if (list.size() > kEosTokensMax) return config.Refuse(key, allowed);
  for (const nlohmann::json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(kVocabSizeMax)) {
      return config.Refuse(key, allowed);
    }
    ids.push_back(static_cast<int32_t>(id.get<uint64_t>()));
  }
  return ids;
}

// Frequencies below the original context's are divided by the factor, those well above are kept,
// and between the two wavelengths the result is blended.
double Llama3Frequency(double frequency, const RopeScaling& scaling) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const double turns = static_cast<double>(scaling.original_context) / wavelength;
  if (turns < scaling.low_freq_factor) return frequency / scaling.factor;
  if (turns > scaling.high_freq_factor) return frequency;
  const double blend =
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0 - blend) * frequency / scaling.factor + blend * frequency;
}

}  // namespace

absl::StatusOr<ModelSpec> ParseModelSpec(const std::string& config_json) {
  TESSERA_ASSIGN_OR_RETURN(const ConfigReader config,
                           ConfigReader::Parse(config_json, "config.json"));
  ModelSpec spec;
  TESSERA_ASSIGN_OR_RETURN(spec.architecture, Architecture(config));
  const Family* family = FindFamily(spec.architecture);
  if (family == nullptr) {
    return absl::UnimplementedError(absl::StrCat("config.json: architecture \"", spec.architecture,
                                                 "\" is not supported; supported are ",
                                                 SupportedArchitectures()));
  }
  spec.family = family->name;
  TESSERA_ASSIGN_OR_RETURN(const auto quantization, config.Object("quantization_config"));
  if (quantization.has_value()) {
    TESSERA_ASSIGN_OR_RETURN(const std::string method,
                             quantization->StringOr("quant_method", "unnamed"));
    return absl::UnimplementedError(
        absl::StrCat("config.json: quantized weights (\"", method,
                     "\") are not supported; use a checkpoint in bfloat16, float16 or float32"));
  }
  TESSERA_ASSIGN_OR_RETURN(spec.checkpoint_dtype, ParseCheckpointDType(config));
  TESSERA_RETURN_IF_ERROR(family->parse(config, &spec));
  return spec;
}

absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(const std::string& config_json,
                                                           const std::string& generation_json) {
  TESSERA_ASSIGN_OR_RETURN(const ConfigReader config,
                           ConfigReader::Parse(config_json, "config.json"));
  TESSERA_ASSIGN_OR_RETURN(const ConfigReader generation,
                           ConfigReader::Parse(generation_json.empty() ? "{}" : generation_json,
                                               "generation_config.json"));
  GenerationDefaults defaults;
  TESSERA_ASSIGN_OR_RETURN(
      defaults.eos_token_ids,
      TokenIds(generation.Has("eos_token_id") ? generation : config, "eos_token_id"));
  TESSERA_ASSIGN_OR_RETURN(const int64_t bos, (generation.Has("bos_token_id") ? generation : config)
                                                  .IntOr("bos_token_id", -1, 0, kVocabSizeMax - 1));
  defaults.bos_token_id = static_cast<int32_t>(bos);
  TESSERA_ASSIGN_OR_RETURN(const double temperature,
                           generation.NumberOr("temperature", 1.0, 0.0, kTemperatureMax));
  TESSERA_ASSIGN_OR_RETURN(const int64_t top_k, generation.IntOr("top_k", 0, 0, kVocabSizeMax));
  TESSERA_ASSIGN_OR_RETURN(const double top_p, generation.NumberOr("top_p", 1.0, 1e-6, 1.0));
  // Said in so many words, false means greedy; left out it says nothing.
  TESSERA_ASSIGN_OR_RETURN(const bool sample, generation.BoolOr("do_sample", true));
  defaults.temperature = sample ? static_cast<float>(temperature) : 0.0f;
  defaults.top_k = static_cast<uint32_t>(top_k);
  defaults.top_p = static_cast<float>(top_p);
  return defaults;
}

int64_t ParameterCount(const ModelSpec& spec) {
  int64_t count = 0;
  for (const WeightSpec& weight : WeightTable(spec)) {
    int64_t elements = 1;
    for (const int64_t n : weight.shape) elements *= n;
    count += elements;
  }
  return count;
}

std::vector<float> RopeInverseFrequencies(const ModelSpec& spec) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < spec.rotary_size; i += 2) {
    double frequency =
        std::pow(spec.rope_theta, -static_cast<double>(i) / static_cast<double>(spec.rotary_size));
    if (spec.rope_scaling.kind == RopeScaling::Kind::kLinear) frequency /= spec.rope_scaling.factor;
    if (spec.rope_scaling.kind == RopeScaling::Kind::kLlama3) {
      frequency = Llama3Frequency(frequency, spec.rope_scaling);
    }
    frequencies.push_back(static_cast<float>(frequency));
  }
  return frequencies;
}

}  // namespace tessera
