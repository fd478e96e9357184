// See the header.

#include "coordinator/api/sampling_defaults.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/validate.h"
#include "models/config_reader.h"

namespace tessera {

absl::StatusOr<SamplingDefaults> ParseSamplingDefaults(const std::string& generation_json) {
  SamplingDefaults defaults;
  if (generation_json.empty()) return defaults;
  TESSERA_ASSIGN_OR_RETURN(const ConfigReader generation,
                           ConfigReader::Parse(generation_json, "generation_config.json"));
  TESSERA_ASSIGN_OR_RETURN(defaults.min_p, generation.NumberOr("min_p", 0, 0, 1));
  if (static_cast<float>(defaults.min_p) >= 1) {
    return generation.Refuse("min_p", "a number from 0 to below 1");
  }
  TESSERA_ASSIGN_OR_RETURN(
      defaults.repetition_penalty,
      generation.NumberOr("repetition_penalty", 1, 0, api::kRepetitionPenaltyMax));
  if (static_cast<float>(defaults.repetition_penalty) <= 0) {
    return generation.Refuse("repetition_penalty", absl::StrCat("a number above 0 and at most ",
                                                                api::kRepetitionPenaltyMax));
  }
  if (!generation.Has("max_new_tokens")) return defaults;
  TESSERA_ASSIGN_OR_RETURN(
      defaults.max_new_tokens,
      generation.Int("max_new_tokens", 1, std::numeric_limits<int32_t>::max()));
  return defaults;
}

}  // namespace tessera
