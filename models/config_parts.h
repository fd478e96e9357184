// Parts of config.json that many families spell alike: activation, rotary embedding, dtype, KV
// groups. Called by the families and ParseModelSpec while a model is opened.

#ifndef TESSERA_MODELS_CONFIG_PARTS_H_
#define TESSERA_MODELS_CONFIG_PARTS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/config_reader.h"
#include "models/model_spec.h"

namespace tessera {

absl::StatusOr<ActivationKind> ParseActivation(const ConfigReader& config, const std::string& key);

// Fills rope_theta and rope_scaling from "rope_theta" and "rope_scaling", or from
// "rope_parameters", which newer configs have in their place. UNIMPLEMENTED names a rope type that
// is not supported.
absl::Status ParseRope(const ConfigReader& config, ModelSpec* spec);

// "dtype", or "torch_dtype" in older configs; float32 if neither is there, as in the reference.
absl::StatusOr<DType> ParseCheckpointDType(const ConfigReader& config);

// All layers, full attention.
KvGroup FullAttentionGroup(const ModelSpec& spec);

}  // namespace tessera

#endif  // TESSERA_MODELS_CONFIG_PARTS_H_
