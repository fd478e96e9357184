// Reading the text files of a model folder: whole, at most `bytes_max`, with errors that name the
// file. Called while a model loads, on the loading thread.

#ifndef TESSERA_COORDINATOR_TEXT_MODEL_FILES_H_
#define TESSERA_COORDINATOR_TEXT_MODEL_FILES_H_

#include <cstddef>
#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tessera::text {

// tokenizer_config.json, special_tokens_map.json: bytes.
inline constexpr size_t kConfigFileBytesMax = size_t{16} << 20;

absl::StatusOr<std::string> ReadModelFile(const std::filesystem::path& path, size_t bytes_max);

// The JSON object in a file, keys in file order; an empty object when there is no such file.
absl::StatusOr<nlohmann::ordered_json> ReadConfig(const std::filesystem::path& path);

}  // namespace tessera::text

#endif  // TESSERA_COORDINATOR_TEXT_MODEL_FILES_H_
