// See the header.

#include "models/generation_defaults.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "models/config_reader.h"
#include "models/model_spec.h"

namespace tessera {
namespace {

constexpr double kTopPMin = 1e-6;  // the least that is worth a name: one token is left

// A token id, a list of them, or nothing. -1 is how some files say "none".
absl::StatusOr<std::vector<int32_t>> TokenIds(const ConfigReader& config, const std::string& key,
                                              std::vector<std::string>* warnings) {
  std::vector<int32_t> ids;
  const nlohmann::json* value = config.Find(key);
  if (value == nullptr) return ids;
  const nlohmann::json list = value->is_array() ? *value : nlohmann::json::array({*value});
  const std::string allowed = absl::StrCat("a token id from 0 to ", kVocabSizeMax - 1,
                                           ", or a list of at most ", kEosTokensMax, " of them");
  if (list.size() > kEosTokensMax) return config.Refuse(key, allowed);
  for (const nlohmann::json& id : list) {
    if (id.is_number_integer() && !id.is_number_unsigned()) {
      warnings->push_back(
          absl::StrCat(config.Refuse(key, allowed).message(), "; negative ones are left out"));
      continue;
    }
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(kVocabSizeMax)) {
      return config.Refuse(key, allowed);
    }
    ids.push_back(static_cast<int32_t>(id.get<uint64_t>()));
  }
  return ids;
}

// Reads numbers of sampling; those that cannot be used leave the default and a warning.
class LenientReader {
 public:
  LenientReader(const ConfigReader& config, std::vector<std::string>* warnings)
      : config_(config), warnings_(warnings) {}

  double Number(const std::string& key, double otherwise, double min, double max) {
    return Take(config_.NumberOr(key, otherwise, min, max), otherwise);
  }
  int64_t Int(const std::string& key, int64_t otherwise, int64_t min, int64_t max) {
    return Take(config_.IntOr(key, otherwise, min, max), otherwise);
  }
  bool Bool(const std::string& key, bool otherwise) {
    return Take(config_.BoolOr(key, otherwise), otherwise);
  }

 private:
  template <typename T>
  T Take(const absl::StatusOr<T>& value, T otherwise) {
    if (value.ok()) return *value;
    warnings_->push_back(absl::StrCat(value.status().message(), "; it is left out"));
    return otherwise;
  }

  const ConfigReader& config_;
  std::vector<std::string>* const warnings_;
};

}  // namespace

absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(const std::string& config_json,
                                                           const std::string& generation_json) {
  TESSERA_ASSIGN_OR_RETURN(const ConfigReader config,
                           ConfigReader::Parse(config_json, "config.json"));
  TESSERA_ASSIGN_OR_RETURN(const ConfigReader generation,
                           ConfigReader::Parse(generation_json.empty() ? "{}" : generation_json,
                                               "generation_config.json"));
  GenerationDefaults defaults;
  const auto ids = [&](const std::string& key) -> absl::StatusOr<std::vector<int32_t>> {
    if (!generation.Has(key)) return TokenIds(config, key, &defaults.warnings);
    // What rules is right; what nobody goes by may still be a sign.
    std::vector<std::string> ignored;
    if (const auto other = TokenIds(config, key, &ignored); !other.ok()) {
      defaults.warnings.push_back(
          absl::StrCat(other.status().message(), "; generation_config.json's is taken"));
    }
    return TokenIds(generation, key, &defaults.warnings);
  };
  TESSERA_ASSIGN_OR_RETURN(defaults.eos_token_ids, ids("eos_token_id"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<int32_t> bos, ids("bos_token_id"));
  if (!bos.empty()) defaults.bos_token_id = bos.front();

  LenientReader sampling(generation, &defaults.warnings);
  const double temperature = sampling.Number("temperature", 1.0, 0.0, kDefaultTemperatureMax);
  // Said in so many words, false means greedy; left out it says nothing.
  const bool sample = sampling.Bool("do_sample", true);
  defaults.temperature = sample ? static_cast<float>(temperature) : 0.0f;
  defaults.top_k = static_cast<uint32_t>(sampling.Int("top_k", 0, 0, kVocabSizeMax));
  // 0 leaves the one most likely token, as in the reference.
  defaults.top_p = static_cast<float>(std::max(kTopPMin, sampling.Number("top_p", 1.0, 0.0, 1.0)));
  // The largest values below 1 and the smallest above 0 that are so as floats as well.
  const double below_one = std::nextafter(1.0f, 0.0f);
  defaults.min_p = static_cast<float>(sampling.Number("min_p", 0.0, 0.0, below_one));
  defaults.repetition_penalty = static_cast<float>(sampling.Number(
      "repetition_penalty", 1.0, std::numeric_limits<float>::min(), kDefaultRepetitionPenaltyMax));
  const int64_t longest = sampling.Int("max_new_tokens", 0, 0, std::numeric_limits<int32_t>::max());
  if (longest > 0) defaults.max_new_tokens = longest;
  return defaults;
}

}  // namespace tessera
