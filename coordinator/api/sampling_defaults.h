// What generation_config.json says about sampling beyond models' GenerationDefaults (end tokens,
// temperature, top_k, top_p): used where a request does not say. Read once by main.

#ifndef TESSERA_COORDINATOR_API_SAMPLING_DEFAULTS_H_
#define TESSERA_COORDINATOR_API_SAMPLING_DEFAULTS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

struct SamplingDefaults {
  double min_p = 0;               // [0, 1), 0: off
  double repetition_penalty = 1;  // 1: off
  std::optional<int64_t> max_new_tokens;
};

// `generation_json` may be empty (no such file). INVALID_ARGUMENT names the key, what it holds and
// what it may hold: as much as a request may ask for.
absl::StatusOr<SamplingDefaults> ParseSamplingDefaults(const std::string& generation_json);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_API_SAMPLING_DEFAULTS_H_
