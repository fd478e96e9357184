// See config_parts.h.

#include "models/config_parts.h"

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tessera {
namespace {

constexpr double kRopeThetaMin = 1.0;
constexpr double kRopeThetaMax = 1e12;
constexpr double kRopeFactorMax = 1e6;

absl::StatusOr<RopeScaling> ParseScaling(const ConfigReader& config, const ModelSpec& spec) {
  // Early configs say "type", later ones "rope_type", some say both; the newer spelling rules.
  const char* key = config.Has("rope_type") ? "rope_type" : "type";
  TESSERA_ASSIGN_OR_RETURN(const std::string type, config.StringOr(key, "default"));
  RopeScaling scaling;
  if (type == "default") return scaling;
  if (type != "linear" && type != "llama3") {
    return absl::UnimplementedError(absl::StrCat("config.json: rope type \"", type,
                                                 "\" is not supported for ", spec.architecture,
                                                 "; supported are default, linear, llama3"));
  }
  TESSERA_ASSIGN_OR_RETURN(scaling.factor, config.Number("factor", 1.0, kRopeFactorMax));
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    return scaling;
  }
  scaling.kind = RopeScaling::Kind::kLlama3;
  TESSERA_ASSIGN_OR_RETURN(scaling.low_freq_factor,
                           config.Number("low_freq_factor", 1e-6, kRopeFactorMax));
  TESSERA_ASSIGN_OR_RETURN(scaling.high_freq_factor,
                           config.Number("high_freq_factor", 1e-6, kRopeFactorMax));
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    return config.Refuse("high_freq_factor",
                         absl::StrCat("greater than low_freq_factor, ", scaling.low_freq_factor));
  }
  TESSERA_ASSIGN_OR_RETURN(scaling.original_context,
                           config.Int("original_max_position_embeddings", 1, kContextMax));
  return scaling;
}

}  // namespace

absl::StatusOr<ActivationKind> ParseActivation(const ConfigReader& config, const std::string& key) {
  TESSERA_ASSIGN_OR_RETURN(const std::string name, config.StringOr(key, "silu"));
  if (name == "silu" || name == "swish") return ActivationKind::kSilu;
  if (name == "gelu") return ActivationKind::kGelu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return ActivationKind::kGeluTanh;
  return config.Refuse(key, "one of silu, gelu, gelu_pytorch_tanh");
}

absl::Status ParseRope(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_ASSIGN_OR_RETURN(const auto parameters, config.Object("rope_parameters"));
  TESSERA_ASSIGN_OR_RETURN(const auto old_scaling, config.Object("rope_scaling"));
  TESSERA_ASSIGN_OR_RETURN(spec->rope_theta,
                           config.NumberOr("rope_theta", 10000.0, kRopeThetaMin, kRopeThetaMax));
  TESSERA_ASSIGN_OR_RETURN(const double rotated,
                           config.NumberOr("partial_rotary_factor", 1.0, 0, 1));
  if (rotated != 1.0) {
    return config.Refuse("partial_rotary_factor", absl::StrCat("1 for ", spec->architecture));
  }
  if (old_scaling.has_value()) {
    TESSERA_ASSIGN_OR_RETURN(spec->rope_scaling, ParseScaling(*old_scaling, *spec));
  }
  if (!parameters.has_value()) return absl::OkStatus();

  TESSERA_ASSIGN_OR_RETURN(const double theta, parameters->NumberOr("rope_theta", spec->rope_theta,
                                                                    kRopeThetaMin, kRopeThetaMax));
  if (config.Has("rope_theta") && theta != spec->rope_theta) {
    return parameters->Refuse("rope_theta", absl::StrCat("the top level's, ", spec->rope_theta));
  }
  spec->rope_theta = theta;
  TESSERA_ASSIGN_OR_RETURN(const RopeScaling scaling, ParseScaling(*parameters, *spec));
  if (old_scaling.has_value() && !(scaling == spec->rope_scaling)) {
    return config.Refuse("rope_scaling", "absent, or say the same as \"rope_parameters\"");
  }
  spec->rope_scaling = scaling;
  return absl::OkStatus();
}

absl::StatusOr<DType> ParseCheckpointDType(const ConfigReader& config) {
  const char* key = config.Has("dtype") ? "dtype" : "torch_dtype";
  TESSERA_ASSIGN_OR_RETURN(const std::string name, config.StringOr(key, "float32"));
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    if (name == DTypeName(dtype)) return dtype;
  }
  return config.Refuse(key, "one of bfloat16, float16, float32");
}

KvGroup FullAttentionGroup(const ModelSpec& spec) {
  KvGroup group;
  group.kind = KvGroup::Kind::kFull;
  for (int layer = 0; layer < spec.num_layers; ++layer) group.layers.push_back(layer);
  group.num_kv_heads = spec.num_kv_heads;
  group.head_size = spec.head_size;
  return group;
}

}  // namespace tessera
