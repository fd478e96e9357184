// How the model wants to be used: generation_config.json, else config.json for the end tokens. Read
// once, while a model is opened; used by the front doors where a request does not say.

#ifndef TESSERA_MODELS_GENERATION_DEFAULTS_H_
#define TESSERA_MODELS_GENERATION_DEFAULTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

inline constexpr size_t kEosTokensMax = 256;
inline constexpr double kDefaultTemperatureMax = 100.0;
inline constexpr double kDefaultRepetitionPenaltyMax = 10.0;  // as much as a request may ask for

struct GenerationDefaults {
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1;  // -1: none
  float temperature = 1.0f;
  uint32_t top_k = 0;               // 0: off
  float top_p = 1.0f;               // 1: off
  float min_p = 0.0f;               // [0, 1), 0: off
  float repetition_penalty = 1.0f;  // 1: off
  std::optional<int64_t> max_new_tokens;
  // What the files say and what is not done, a sentence each; for whoever starts the model.
  std::vector<std::string> warnings;
};

// `generation_json` may be empty (no such file). A value of sampling that cannot be used is left
// out, with a warning: models are published with such. Files that are no JSON objects and end
// tokens that are no token ids are INVALID_ARGUMENT, naming file and key.
absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(const std::string& config_json,
                                                           const std::string& generation_json);

}  // namespace tessera

#endif  // TESSERA_MODELS_GENERATION_DEFAULTS_H_
