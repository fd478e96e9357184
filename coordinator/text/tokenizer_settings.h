// What a model folder says about its tokenizer beside tokenizer.json: tokenizer_config.json,
// special_tokens_map.json, and config.json for the class it is of. Read as the reference reads
// them. Called while a model loads, on the loading thread. Limit: kAddedTokensMax.

#ifndef TESSERA_COORDINATOR_TEXT_TOKENIZER_SETTINGS_H_
#define TESSERA_COORDINATOR_TEXT_TOKENIZER_SETTINGS_H_

#include <cstddef>
#include <filesystem>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tessera::text {

inline constexpr size_t kAddedTokensMax = 1 << 16;  // that tokenizer_config.json lists

struct TokenizerSettings {
  // bos_token, eos_token and the like as text, additional_special_tokens as a list of texts:
  // variables of the chat template.
  nlohmann::ordered_json special_tokens;
  // For tt_tokenizer_new: what is changed about tokenizer.json.
  nlohmann::ordered_json changes;
};

// DATA_LOSS names the file and the key. Files that are missing say nothing.
absl::StatusOr<TokenizerSettings> ReadTokenizerSettings(const std::filesystem::path& model_dir);

}  // namespace tessera::text

#endif  // TESSERA_COORDINATOR_TEXT_TOKENIZER_SETTINGS_H_
