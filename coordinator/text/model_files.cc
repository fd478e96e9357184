// Reads tokenizer files of a model folder, on the loading thread. Every file has a byte limit.
#include "coordinator/text/model_files.h"

#include <cstdint>
#include <fstream>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tessera::text {

using Json = nlohmann::ordered_json;

absl::StatusOr<std::string> ReadModelFile(const std::filesystem::path& path, size_t bytes_max) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) {
    if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) {
      return absl::NotFoundError(absl::StrCat(path.string(), ": no such file"));
    }
    return absl::FailedPreconditionError(absl::StrCat(path.string(), ": ", error.message()));
  }
  if (size > bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path.string(), ": ", size, " bytes are over the limit of ", bytes_max));
  }
  std::string content(static_cast<size_t>(size), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(content.data(), static_cast<std::streamsize>(content.size()))) {
    return absl::FailedPreconditionError(
        absl::StrCat(path.string(), ": cannot be read (", size, " bytes expected)"));
  }
  return content;
}

absl::StatusOr<Json> ReadConfig(const std::filesystem::path& path) {
  absl::StatusOr<std::string> content = ReadModelFile(path, kConfigFileBytesMax);
  if (absl::IsNotFound(content.status())) return Json::object();
  TESSERA_RETURN_IF_ERROR(content.status());
  Json json = Json::parse(*content, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::DataLossError(absl::StrCat(path.string(), ": not a JSON object"));
  }
  return json;
}

}  // namespace tessera::text
