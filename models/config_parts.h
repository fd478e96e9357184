// Parts of config.json that many families spell alike: sizes, heads, activation, windows, rotary
// embedding, dtype. Called by the families and ParseModelSpec while a model is opened.

#ifndef TESSERA_MODELS_CONFIG_PARTS_H_
#define TESSERA_MODELS_CONFIG_PARTS_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/config_reader.h"
#include "models/model_spec.h"

namespace tessera {

// Layers, hidden, intermediate, vocabulary and context sizes, norm epsilon; none has a default.
absl::Status ParseWidths(const ConfigReader& config, ModelSpec* spec);

// The same and heads. Sizes have no default but head_dim (hidden_size / num_attention_heads) and
// num_key_value_heads. Sets attention_scale to 1 / sqrt(head size).
absl::Status ParseSizes(const ConfigReader& config, ModelSpec* spec);

absl::StatusOr<ActivationKind> ParseActivation(const ConfigReader& config, const std::string& key);

// A cap on logits or scores: 0 without the key.
absl::StatusOr<float> ParseSoftcap(const ConfigReader& config, const std::string& key);

// "sliding_window" in tokens: 0 if it is null, `otherwise` if it is left out.
absl::StatusOr<int64_t> ParseWindow(const ConfigReader& config, int64_t otherwise);

// Fills `layers`: those that slide have `window`. "layer_types" says which do, or slides(layer)
// where it is left out.
absl::Status ParseLayers(const ConfigReader& config, int64_t window,
                         absl::FunctionRef<bool(int64_t layer)> slides, ModelSpec* spec);

// "rope_theta" and "rope_scaling", or "rope_parameters", which newer configs have in their place.
// A "partial_rotary_factor" is refused where all of the head turns. UNIMPLEMENTED names a rope type
// that is not supported. `spec` has its head size and context already.
absl::StatusOr<RotarySpec> ParseRotary(const ConfigReader& config, const ModelSpec& spec,
                                       int64_t rotary_size);

// The object that says how one kind of rotary embedding is scaled.
absl::StatusOr<RopeScaling> ParseRopeScaling(const ConfigReader& config,
                                             const ConfigReader& scaling, const ModelSpec& spec,
                                             int64_t rotary_size);

inline constexpr double kRopeThetaMin = 1.0;
inline constexpr double kRopeThetaMax = 1e12;

// "num_experts_per_tok", at most `experts`.
absl::StatusOr<int64_t> ParseExpertsPerToken(const ConfigReader& config, int64_t experts);

// "quantization_config": float8 with a scale per block, or nothing. UNIMPLEMENTED names any other
// method.
absl::StatusOr<BlockScaling> ParseBlockScaling(const ConfigReader& config);

// "dtype", or "torch_dtype" in older configs; float32 if neither is there, as in the reference.
absl::StatusOr<DType> ParseCheckpointDType(const ConfigReader& config);

}  // namespace tessera

#endif  // TESSERA_MODELS_CONFIG_PARTS_H_
