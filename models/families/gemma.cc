// Gemma 1, 2 and 3 (text). All scale the embedding, store norm weights less one and tie the head.
// 2 adds norms behind attention and MLP, caps, a query scale and windows on every other layer; 3
// drops the caps for head norms and has five windowed layers, with a rope of their own, to one
// full.

#include <cmath>
#include <string>

#include "base/status.h"
#include "models/config_parts.h"
#include "models/families/families.h"
#include "models/families/standard.h"

namespace tessera {
namespace gemma {
namespace {

// Base of Gemma 3's full layers and of its windowed ones where a config names none.
constexpr double kFullTheta = 1e6;
constexpr double kLocalTheta = 1e4;

absl::Status ParseCommon(const ConfigReader& config, ModelSpec* spec) {
  // The reference's default does not follow from the other sizes.
  if (!config.Has("head_dim")) return config.Refuse("head_dim", "given for " + spec->architecture);
  TESSERA_RETURN_IF_ERROR(ParseSizes(config, spec));
  spec->norm_plus_one = true;
  spec->embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(spec->hidden_size)));
  TESSERA_ASSIGN_OR_RETURN(spec->tied_head, config.BoolOr("tie_word_embeddings", true));
  TESSERA_ASSIGN_OR_RETURN(spec->qkv_bias, config.BoolOr("attention_bias", false));
  spec->output_bias = spec->qkv_bias;
  const char* key = config.Has("hidden_activation") ? "hidden_activation" : "hidden_act";
  spec->activation = ActivationKind::kGeluTanh;
  if (config.Has(key)) {
    TESSERA_ASSIGN_OR_RETURN(spec->activation, ParseActivation(config, key));
  }
  return absl::OkStatus();
}

absl::Status ParseOneRope(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_ASSIGN_OR_RETURN(const RotarySpec rope, ParseRotary(config, *spec, spec->head_size));
  spec->ropes = {rope};
  return absl::OkStatus();
}

absl::Status ParseGemma1(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseCommon(config, spec));
  return ParseOneRope(config, spec);
}

// What 2 and 3 share: windowed layers, those that slides(layer) names, and what is around them.
absl::Status ParseSandwich(const ConfigReader& config,
                           absl::FunctionRef<bool(int64_t layer)> slides, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseCommon(config, spec));
  spec->attention_out_norm = true;
  spec->mlp_out_norm = true;
  TESSERA_ASSIGN_OR_RETURN(const double scalar,
                           config.Number("query_pre_attn_scalar", 1e-3, kHiddenSizeMax));
  spec->attention_scale = static_cast<float>(1.0 / std::sqrt(scalar));
  TESSERA_ASSIGN_OR_RETURN(spec->final_softcap, ParseSoftcap(config, "final_logit_softcapping"));
  TESSERA_ASSIGN_OR_RETURN(const int64_t window, config.Int("sliding_window", 1, kContextMax));
  return ParseLayers(config, window, slides, spec);
}

absl::Status ParseGemma2(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseSandwich(
      config, [](int64_t layer) { return layer % 2 == 0; }, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->attention_softcap, ParseSoftcap(config, "attn_logit_softcapping"));
  return ParseOneRope(config, spec);
}

// The rope of one kind of layer, as newer configs have them side by side.
absl::StatusOr<RotarySpec> ParseRopeOf(const ConfigReader& config, const ConfigReader& ropes,
                                       const std::string& kind, double theta,
                                       const ModelSpec& spec) {
  RotarySpec rope{.theta = theta, .rotary_size = spec.head_size, .scaling = {}};
  TESSERA_ASSIGN_OR_RETURN(const auto object, ropes.Object(kind));
  if (!object.has_value()) return ropes.Refuse(kind, "an object");
  TESSERA_ASSIGN_OR_RETURN(rope.theta,
                           object->NumberOr("rope_theta", theta, kRopeThetaMin, kRopeThetaMax));
  TESSERA_ASSIGN_OR_RETURN(rope.scaling, ParseRopeScaling(config, *object, spec, spec.head_size));
  return rope;
}

// One rope for full layers, then one for windowed ones.
absl::Status ParseTwoRopes(const ConfigReader& config, ModelSpec* spec) {
  for (LayerSpec& layer : spec->layers) layer.rope = layer.window > 0 ? 1 : 0;
  RotarySpec full;
  RotarySpec local{.theta = kLocalTheta, .rotary_size = spec->head_size, .scaling = {}};
  TESSERA_ASSIGN_OR_RETURN(const auto ropes, config.Object("rope_parameters"));
  if (ropes.has_value() && ropes->Has("full_attention")) {
    TESSERA_ASSIGN_OR_RETURN(full,
                             ParseRopeOf(config, *ropes, "full_attention", kFullTheta, *spec));
    TESSERA_ASSIGN_OR_RETURN(local,
                             ParseRopeOf(config, *ropes, "sliding_attention", kLocalTheta, *spec));
  } else {
    TESSERA_ASSIGN_OR_RETURN(full, ParseRotary(config, *spec, spec->head_size));
    if (!config.Has("rope_theta") && !ropes.has_value()) full.theta = kFullTheta;
    TESSERA_ASSIGN_OR_RETURN(local.theta, config.NumberOr("rope_local_base_freq", kLocalTheta,
                                                          kRopeThetaMin, kRopeThetaMax));
  }
  spec->ropes = {full, local};
  return absl::OkStatus();
}

absl::Status ParseGemma3(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_ASSIGN_OR_RETURN(const int64_t period,
                           config.IntOr("sliding_window_pattern", 6, 1, kLayersMax));
  TESSERA_RETURN_IF_ERROR(ParseSandwich(
      config, [period](int64_t layer) { return (layer + 1) % period != 0; }, spec));
  spec->qk_norm = true;
  if (config.Has("attn_logit_softcapping")) {
    return config.Refuse("attn_logit_softcapping", "null: the reference applies none in Gemma 3");
  }
  TESSERA_ASSIGN_OR_RETURN(const bool both_ways,
                           config.BoolOr("use_bidirectional_attention", false));
  if (both_ways) return config.Refuse("use_bidirectional_attention", "false: tokens are generated");
  return ParseTwoRopes(config, spec);
}

}  // namespace
}  // namespace gemma

const Family kGemmaFamily = {"gemma", "GemmaForCausalLM", gemma::ParseGemma1, StandardWeights,
                             StandardIgnorable};
const Family kGemma2Family = {"gemma2", "Gemma2ForCausalLM", gemma::ParseGemma2, StandardWeights,
                              StandardIgnorable};
const Family kGemma3Family = {"gemma3", "Gemma3ForCausalLM", gemma::ParseGemma3, StandardWeights,
                              StandardIgnorable};

}  // namespace tessera
