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

absl::StatusOr<std::string> Architecture(const ConfigReader& config) {
  const nlohmann::json* list = config.Find("architectures");
  if (list == nullptr || !list->is_array() || list->size() != 1 || !list->front().is_string()) {
    return config.Refuse("architectures", absl::StrCat("a list of one name; supported are ",
                                                       SupportedArchitectures()));
  }
  return list->front().get<std::string>();
}

// A sequence is short or long for all layers.
absl::Status CheckOneSwitch(const ConfigReader& config, const ModelSpec& spec) {
  int64_t original = 0;
  for (const RotarySpec& rope : spec.ropes) {
    if (rope.scaling.kind != RopeScaling::Kind::kLongRope) continue;
    if (original != 0 && original != rope.scaling.original_context) {
      return config.Refuse("rope_parameters",
                           "of one \"original_max_position_embeddings\" for all layers");
    }
    original = rope.scaling.original_context;
  }
  return absl::OkStatus();
}

// Layers and experts are few enough each; together they might keep us busy for minutes.
absl::Status CheckTensorCount(const ConfigReader& config, const ModelSpec& spec) {
  const int64_t layers = std::count_if(spec.layers.begin(), spec.layers.end(),
                                       [](const LayerSpec& layer) { return layer.experts; });
  const int64_t tensors = 3 * layers * spec.moe.num_experts;
  if (tensors <= kTensorsMax) return absl::OkStatus();
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    if (!config.Has(key)) continue;
    return config.Refuse(key, absl::StrCat("fewer for ", layers, " layers (\"num_hidden_layers\" ",
                                           spec.num_layers, "): they make ", tensors,
                                           " tensors, at most ", kTensorsMax, " are read"));
  }
  return absl::InvalidArgumentError(absl::StrCat("config.json: ", tensors, " tensors of experts"));
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
    return absl::UnimplementedError(absl::StrCat(
        "config.json: architecture \"", spec.architecture, "\" is not supported",
        config.Has("auto_map") ? ", and the Python code that \"auto_map\" names is never run" : "",
        "; supported are ", SupportedArchitectures()));
  }
  spec.family = family->name;
  TESSERA_ASSIGN_OR_RETURN(spec.float8, ParseBlockScaling(config));
  TESSERA_ASSIGN_OR_RETURN(spec.checkpoint_dtype, ParseCheckpointDType(config));
  TESSERA_RETURN_IF_ERROR(family->parse(config, &spec));
  TESSERA_RETURN_IF_ERROR(CheckOneSwitch(config, spec));
  TESSERA_RETURN_IF_ERROR(CheckTensorCount(config, spec));
  Finish(&spec);
  return spec;
}

int64_t ParameterCount(const ModelSpec& spec) {
  int64_t count = 0;
  for (const WeightSpec& weight : WeightTableOfOneExpert(spec)) {
    count += weight.Elements() * (weight.expert < 0 ? 1 : spec.moe.num_experts);
  }
  return count;
}

int64_t ActiveParameterCount(const ModelSpec& spec) {
  int64_t count = 0;
  for (const WeightSpec& weight : WeightTableOfOneExpert(spec)) {
    count += weight.Elements() * (weight.expert < 0 ? 1 : spec.moe.experts_per_token);
  }
  return count;
}

int64_t RopeSwitch(const ModelSpec& spec, int64_t context_max) {
  for (const RotarySpec& rope : spec.ropes) {
    if (rope.scaling.kind != RopeScaling::Kind::kLongRope) continue;
    // ParseModelSpec has seen to it that there are no two of them.
    return context_max > rope.scaling.original_context ? rope.scaling.original_context : 0;
  }
  return 0;
}

bool HasDenseLayers(const ModelSpec& spec) {
  return std::any_of(spec.layers.begin(), spec.layers.end(),
                     [](const LayerSpec& layer) { return !layer.experts; });
}

std::vector<KvGroup> GroupLayers(const ModelSpec& spec) {
  std::map<int64_t, KvGroup> groups;  // by window
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    const int64_t window = spec.layers[layer].window;
    KvGroup& group = groups[window];
    group.kind = window == 0 ? KvGroup::Kind::kFull : KvGroup::Kind::kWindow;
    if (spec.latent.kv_rank > 0) group.kind = KvGroup::Kind::kLatent;
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
