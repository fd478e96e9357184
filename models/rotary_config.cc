// ParseRotary of config_parts.h: what config.json says of the rotary embedding, in all the
// spellings that configs have had.

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "models/config_parts.h"

namespace tessera {
namespace {

using Kind = RopeScaling::Kind;

constexpr double kRopeFactorMax = 1e6;
constexpr double kBetaMax = 1e6;

// Early configs say "type", later ones "rope_type", some say both; the newer spelling rules.
const char* TypeKey(const ConfigReader& scaling) {
  return scaling.Has("type") && !scaling.Has("rope_type") ? "type" : "rope_type";
}

// What an object without a type may say; anything else is a scaling that nobody could apply.
bool IsUnscaled(const std::string& key) {
  return key == "rope_theta" || key == "partial_rotary_factor";
}

absl::StatusOr<std::string> RopeType(const ConfigReader& scaling) {
  const char* key = TypeKey(scaling);
  if (!scaling.Has(key)) {
    for (const std::string& other : scaling.Keys()) {
      if (!IsUnscaled(other)) {
        return scaling.Refuse(key, absl::StrCat("named beside \"", other, "\""));
      }
    }
  }
  TESSERA_ASSIGN_OR_RETURN(const std::string type, scaling.StringOr(key, "default"));
  // What longrope was called before it had that name.
  if (type == "su" || (type == "yarn" && scaling.Has("short_factor"))) return "longrope";
  return type;
}

absl::Status ParseLlama3(const ConfigReader& scaling, RopeScaling* rope) {
  TESSERA_ASSIGN_OR_RETURN(rope->factor, scaling.Number("factor", 1.0, kRopeFactorMax));
  TESSERA_ASSIGN_OR_RETURN(rope->low_freq_factor,
                           scaling.Number("low_freq_factor", 1e-6, kRopeFactorMax));
  TESSERA_ASSIGN_OR_RETURN(rope->high_freq_factor,
                           scaling.Number("high_freq_factor", 1e-6, kRopeFactorMax));
  if (rope->high_freq_factor <= rope->low_freq_factor) {
    return scaling.Refuse("high_freq_factor",
                          absl::StrCat("greater than low_freq_factor, ", rope->low_freq_factor));
  }
  TESSERA_ASSIGN_OR_RETURN(rope->original_context,
                           scaling.Int("original_max_position_embeddings", 1, kContextMax));
  return absl::OkStatus();
}

double YarnMagnitude(double factor, double weight) {
  return factor <= 1.0 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0;
}

absl::Status ParseYarn(const ConfigReader& scaling, const ModelSpec& spec, RopeScaling* rope) {
  TESSERA_ASSIGN_OR_RETURN(rope->factor, scaling.Number("factor", 1.0, kRopeFactorMax));
  TESSERA_ASSIGN_OR_RETURN(rope->original_context, scaling.IntOr("original_max_position_embeddings",
                                                                 spec.context_max, 1, kContextMax));
  TESSERA_ASSIGN_OR_RETURN(rope->beta_fast, scaling.NumberOr("beta_fast", 32.0, 1e-6, kBetaMax));
  TESSERA_ASSIGN_OR_RETURN(rope->beta_slow, scaling.NumberOr("beta_slow", 1.0, 1e-6, kBetaMax));
  if (rope->beta_fast < rope->beta_slow) {
    return scaling.Refuse("beta_fast", absl::StrCat("at least beta_slow, ", rope->beta_slow));
  }
  TESSERA_ASSIGN_OR_RETURN(rope->truncate, scaling.BoolOr("truncate", true));
  TESSERA_ASSIGN_OR_RETURN(const double mscale,
                           scaling.NumberOr("mscale", 0.0, 0.0, kRopeFactorMax));
  TESSERA_ASSIGN_OR_RETURN(const double mscale_all,
                           scaling.NumberOr("mscale_all_dim", 0.0, 0.0, kRopeFactorMax));
  if (mscale_all != 0.0) rope->score_magnitude = YarnMagnitude(rope->factor, mscale_all);
  double magnitude = YarnMagnitude(rope->factor, 1.0);
  if (mscale != 0.0 && mscale_all != 0.0) {
    magnitude = YarnMagnitude(rope->factor, mscale) / YarnMagnitude(rope->factor, mscale_all);
  }
  TESSERA_ASSIGN_OR_RETURN(rope->attention_factor,
                           scaling.NumberOr("attention_factor", magnitude, 1e-6, kRopeFactorMax));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> Factors(const ConfigReader& scaling, const std::string& key,
                                            int64_t count) {
  const ConfigReader::Json* list = scaling.Find(key);
  const std::string allowed =
      absl::StrCat("a list of ", count, " positive numbers, one per turning pair");
  if (list == nullptr || !list->is_array() || static_cast<int64_t>(list->size()) != count) {
    return scaling.Refuse(key, allowed);
  }
  std::vector<double> factors;
  for (const ConfigReader::Json& factor : *list) {
    if (!factor.is_number() || !(factor.get<double>() > 0.0) ||
        factor.get<double>() > kRopeFactorMax) {
      return scaling.Refuse(key, allowed);
    }
    factors.push_back(factor.get<double>());
  }
  return factors;
}

// The two magnitudes are equal unless the config names both.
absl::Status ParseLongRope(const ConfigReader& config, const ConfigReader& scaling,
                           const ModelSpec& spec, int64_t rotary_size, RopeScaling* rope) {
  const char* key = "original_max_position_embeddings";
  TESSERA_ASSIGN_OR_RETURN(rope->original_context,
                           (config.Has(key) ? config : scaling).Int(key, 1, kContextMax));
  TESSERA_ASSIGN_OR_RETURN(rope->short_factor, Factors(scaling, "short_factor", rotary_size / 2));
  TESSERA_ASSIGN_OR_RETURN(rope->long_factor, Factors(scaling, "long_factor", rotary_size / 2));
  const double original = static_cast<double>(rope->original_context);
  rope->factor = static_cast<double>(spec.context_max) / original;
  double magnitude = 1.0;
  if (rope->factor > 1.0 && original > 1.0) {
    magnitude = std::sqrt(1.0 + std::log(rope->factor) / std::log(original));
  }
  TESSERA_ASSIGN_OR_RETURN(magnitude,
                           scaling.NumberOr("attention_factor", magnitude, 1e-6, kRopeFactorMax));
  TESSERA_ASSIGN_OR_RETURN(rope->attention_factor,
                           scaling.NumberOr("short_mscale", magnitude, 1e-6, kRopeFactorMax));
  TESSERA_ASSIGN_OR_RETURN(rope->long_attention_factor,
                           scaling.NumberOr("long_mscale", magnitude, 1e-6, kRopeFactorMax));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RopeScaling> ParseRopeScaling(const ConfigReader& config,
                                             const ConfigReader& scaling, const ModelSpec& spec,
                                             int64_t rotary_size) {
  TESSERA_ASSIGN_OR_RETURN(const std::string type, RopeType(scaling));
  RopeScaling rope;
  if (type == "default") return rope;
  if (type == "linear") {
    rope.kind = Kind::kLinear;
    TESSERA_ASSIGN_OR_RETURN(rope.factor, scaling.Number("factor", 1.0, kRopeFactorMax));
  } else if (type == "llama3") {
    rope.kind = Kind::kLlama3;
    TESSERA_RETURN_IF_ERROR(ParseLlama3(scaling, &rope));
  } else if (type == "yarn") {
    rope.kind = Kind::kYarn;
    TESSERA_RETURN_IF_ERROR(ParseYarn(scaling, spec, &rope));
  } else if (type == "longrope") {
    rope.kind = Kind::kLongRope;
    TESSERA_RETURN_IF_ERROR(ParseLongRope(config, scaling, spec, rotary_size, &rope));
  } else {
    return scaling.RefuseForNow(TypeKey(scaling),
                                absl::StrCat("one of default, linear, llama3, yarn, longrope for ",
                                             spec.architecture, ", others are not supported"));
  }
  return rope;
}

absl::StatusOr<RotarySpec> ParseRotary(const ConfigReader& config, const ModelSpec& spec,
                                       int64_t rotary_size) {
  TESSERA_ASSIGN_OR_RETURN(const auto parameters, config.Object("rope_parameters"));
  TESSERA_ASSIGN_OR_RETURN(const auto old_scaling, config.Object("rope_scaling"));
  RotarySpec rope;
  rope.rotary_size = rotary_size;
  TESSERA_ASSIGN_OR_RETURN(rope.theta,
                           config.NumberOr("rope_theta", 10000.0, kRopeThetaMin, kRopeThetaMax));
  TESSERA_ASSIGN_OR_RETURN(const double rotated,
                           config.NumberOr("partial_rotary_factor", 1.0, 0, 1));
  if (rotary_size == spec.head_size && rotated != 1.0) {
    return config.Refuse("partial_rotary_factor", absl::StrCat("1 for ", spec.architecture));
  }
  if (old_scaling.has_value()) {
    TESSERA_ASSIGN_OR_RETURN(rope.scaling,
                             ParseRopeScaling(config, *old_scaling, spec, rotary_size));
  }
  if (!parameters.has_value()) return rope;
  if (parameters->Has("full_attention") || parameters->Has("sliding_attention")) {
    return config.Refuse("rope_parameters",
                         absl::StrCat("the same for all layers of a ", spec.architecture));
  }

  TESSERA_ASSIGN_OR_RETURN(const double theta, parameters->NumberOr("rope_theta", rope.theta,
                                                                    kRopeThetaMin, kRopeThetaMax));
  if (config.Has("rope_theta") && theta != rope.theta) {
    return parameters->Refuse("rope_theta", absl::StrCat("the top level's, ", rope.theta));
  }
  rope.theta = theta;
  TESSERA_ASSIGN_OR_RETURN(const RopeScaling scaling,
                           ParseRopeScaling(config, *parameters, spec, rotary_size));
  if (old_scaling.has_value() && !(scaling == rope.scaling)) {
    return config.Refuse("rope_scaling", "absent, or say the same as \"rope_parameters\"");
  }
  rope.scaling = scaling;
  return rope;
}

}  // namespace tessera
