// Reads the golden files. Paths start at TESSERA_SOURCE_DIR, which the build sets.
#include "tests/coordinator/text/golden.h"

#include <fstream>

#include "base/check.h"

namespace tessera::text {

std::filesystem::path GoldenDir() {
  return std::filesystem::path(TESSERA_SOURCE_DIR) / "tests" / "golden" / "text";
}

std::filesystem::path ModelDir(const std::string& name) {
  if (name == "demo") return std::filesystem::path(TESSERA_SOURCE_DIR) / "deploy" / "demo-model";
  return GoldenDir() / name;
}

Json LoadJson(const std::filesystem::path& path) {
  std::ifstream file(path);
  TESSERA_CHECK(file.good()) << path.string();
  return Json::parse(file);
}

std::shared_ptr<const Tokenizer> LoadTokenizer(const std::string& name) {
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::Load(ModelDir(name));
  TESSERA_CHECK(tokenizer.ok()) << tokenizer.status().ToString();
  return *std::move(tokenizer);
}

std::vector<std::vector<int32_t>> GoldenIds(const std::string& name) {
  const Json cases = LoadJson(GoldenDir() / name / "cases.json");
  std::vector<std::vector<int32_t>> ids;
  for (const char* list : {"texts", "decodes"}) {
    for (const Json& entry : cases[list]) ids.push_back(entry["ids"].get<std::vector<int32_t>>());
  }
  return ids;
}

}  // namespace tessera::text
