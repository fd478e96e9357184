// Access to the goldens in tests/golden/text (written by generate.py there) for the tests of this
// folder.

#ifndef TESSERA_TESTS_COORDINATOR_TEXT_GOLDEN_H_
#define TESSERA_TESTS_COORDINATOR_TEXT_GOLDEN_H_

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace tessera::text {

using Json = nlohmann::ordered_json;

// Names of the tokenizers that have goldens.
inline constexpr const char* kTokenizerNames[] = {
    "gpt2", "llama3", "qwen", "sentencepiece", "metaspace", "gemmabytes", "demo"};

// The folder that holds tokenizer.json of one of them.
std::filesystem::path ModelDir(const std::string& name);
std::filesystem::path GoldenDir();
Json LoadJson(const std::filesystem::path& path);
// Ends the test program when the tokenizer does not load.
std::shared_ptr<const Tokenizer> LoadTokenizer(const std::string& name);
// All id lists of cases.json of one tokenizer.
std::vector<std::vector<int32_t>> GoldenIds(const std::string& name);

}  // namespace tessera::text

#endif  // TESSERA_TESTS_COORDINATOR_TEXT_GOLDEN_H_
