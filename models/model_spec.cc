// ParseModelSpec and what follows from a spec alone. The families do the architecture's part.

#include "models/model_spec.h"

#include <algorithm>
#include <map>
#include <utility>

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

// What follows from the family's part for every family.
void Finish(ModelSpec* spec) {
  spec->layers.resize(spec->num_layers);
  for (const RotarySpec& rope : spec->ropes) {
    if (rope.scaling.kind != RopeScaling::Kind::kYarn) continue;
    // Yarn is often added to a config whose max_position_embeddings still is the original one.
    const double reach = rope.scaling.factor * static_cast<double>(rope.scaling.original_context);
    const int64_t context = static_cast<int64_t>(std::min<double>(reach, kContextMax));
    spec->context_max = std::max(spec->context_max, context);
  }
  for (LayerSpec& layer : spec->layers) {
    // A window that no sequence outgrows is none.
    if (layer.window >= spec->context_max) layer.window = 0;
  }
  spec->kv_groups = GroupLayers(*spec);
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
  Finish(&spec);
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

std::vector<KvGroup> GroupLayers(const ModelSpec& spec) {
  std::map<int64_t, KvGroup> groups;  // by window
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    const int64_t window = spec.layers[layer].window;
    KvGroup& group = groups[window];
    group.kind = window == 0 ? KvGroup::Kind::kFull : KvGroup::Kind::kWindow;
    group.layers.push_back(layer);
    group.window = window;
    group.num_kv_heads = spec.num_kv_heads;
    group.head_size = spec.head_size;
  }
  std::vector<KvGroup> list;
  for (auto& [window, group] : groups) list.push_back(std::move(group));
  return list;
}

}  // namespace tessera
