// Reads golden.json and the raw arrays beside it. Nothing of the product's own readers is used
// here, so that a fault in them cannot hide itself.

#include "tests/golden/models/golden.h"

#include <openssl/evp.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace tessera::golden {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the arrays are stored little-endian");

absl::StatusOr<std::string> ReadFile(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot open ", path.string()));
  return std::string(std::istreambuf_iterator<char>(in), {});
}

std::string Sha256(const std::string& bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr);
  return absl::BytesToHexString(std::string(reinterpret_cast<char*>(digest), size));
}

absl::Status CheckWeights(const fs::path& model_dir, const Json& json, const std::string& name) {
  for (const auto& [file, wanted] : json.at("sha256").items()) {
    absl::StatusOr<std::string> bytes = ReadFile(model_dir / file);
    if (!bytes.ok()) return bytes.status();
    if (Sha256(*bytes) == wanted.get<std::string>()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("golden '", name, "' was made from another ", (model_dir / file).string(),
                     "; make it anew with: python tests/golden/models/generate.py --only ", name));
  }
  return absl::OkStatus();
}

// Takes `count` elements of 4 (float32) or 2 (bfloat16) bytes from `bytes` at *offset.
bool TakeFloats(const std::string& bytes, size_t* offset, size_t count, size_t width,
                std::vector<float>* out) {
  if (*offset + count * width > bytes.size()) return false;
  out->resize(count);
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits = 0;  // a bfloat16 is the upper half of a float32
    std::memcpy(reinterpret_cast<char*>(&bits) + (4 - width), bytes.data() + *offset + i * width,
                width);
    (*out)[i] = std::bit_cast<float>(bits);
  }
  *offset += count * width;
  return true;
}

std::vector<Rope> RopesOf(const Json& list) {
  std::vector<Rope> ropes;
  for (const Json& rope : list) {
    ropes.push_back({rope.at("inverse_frequencies").get<std::vector<double>>(),
                     rope.at("attention_factor").get<double>()});
  }
  return ropes;
}

absl::StatusOr<Golden> Parse(const std::string& name, const fs::path& dir, const Json& json) {
  Golden golden;
  golden.name = name;
  golden.model_dir = fs::weakly_canonical(dir / json.at("model_dir").get<std::string>()).string();
  golden.features = json.at("features").get<std::vector<std::string>>();
  golden.tp = json.at("tp").get<std::vector<int>>();
  golden.fp32_tolerance = json.at("fp32_tolerance").get<double>();
  golden.bf16_tolerance = json.at("bf16_tolerance").get<double>();
  golden.bf16_mean_tolerance = json.at("bf16_mean_tolerance").get<double>();
  golden.parameters = json.at("parameters").get<int64_t>();
  golden.bf16_divergence_max = json.at("bf16_divergence_max").get<double>();
  golden.ropes = RopesOf(json.at("ropes"));
  golden.short_ropes = RopesOf(json.value("short_ropes", Json::array()));
  golden.entropy_ratio = json.at("entropy_ratio").get<double>();
  golden.expert_ratio = json.value("expert_ratio", 0.0);
  if (absl::Status status = CheckWeights(golden.model_dir, json, name); !status.ok()) return status;

  absl::StatusOr<std::string> logits = ReadFile(dir / "logits.f32");
  if (!logits.ok()) return logits.status();
  absl::StatusOr<std::string> bf16_logits = ReadFile(dir / "logits.bf16");
  if (!bf16_logits.ok()) return bf16_logits.status();
  const int64_t vocab_size = json.at("vocab_size").get<int64_t>();
  size_t offset = 0;
  size_t bf16_offset = 0;
  for (const Json& item : json.at("prompts")) {
    Prompt prompt;
    prompt.tokens = item.at("tokens").get<std::vector<int32_t>>();
    prompt.logits_begin = item.at("logits_begin").get<int64_t>();
    prompt.vocab_size = vocab_size;
    prompt.greedy = item.at("greedy").get<std::vector<int32_t>>();
    prompt.greedy_margin = item.at("greedy_margin").get<double>();
    const size_t count = (prompt.tokens.size() - prompt.logits_begin) * vocab_size;
    if (!TakeFloats(*logits, &offset, count, 4, &prompt.logits) ||
        !TakeFloats(*bf16_logits, &bf16_offset, count, 2, &prompt.bf16_logits)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the arrays in ", dir.string(), " are too short"));
    }
    golden.prompts.push_back(std::move(prompt));
  }
  if (offset != logits->size() || bf16_offset != bf16_logits->size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the arrays in ", dir.string(), " are too long"));
  }
  return golden;
}

// Where this program was built, or where it was carried to.
fs::path GoldenDir() {
  const char* carried = std::getenv("TESSERA_GOLDEN_DIR");
  return carried != nullptr ? carried : TESSERA_GOLDEN_DIR;
}

}  // namespace

bool Golden::Has(const std::string& feature) const {
  return std::find(features.begin(), features.end(), feature) != features.end();
}

int64_t Golden::LongestPrompt() const {
  size_t longest = 0;
  for (const Prompt& prompt : prompts) longest = std::max(longest, prompt.tokens.size());
  return static_cast<int64_t>(longest);
}

std::vector<std::string> ExpectedCaseNames() {
  std::vector<std::string> names;
  std::ifstream in(GoldenDir() / "expected.txt");
  for (std::string name; std::getline(in, name);) names.push_back(name);
  return names;
}

std::vector<std::string> CaseNames() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(GoldenDir())) {
    if (fs::exists(entry.path() / "golden.json")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<Golden> Read(const std::string& name) {
  const fs::path dir = GoldenDir() / name;
  absl::StatusOr<std::string> text = ReadFile(dir / "golden.json");
  if (!text.ok()) return text.status();
  try {
    return Parse(name, dir, Json::parse(*text));
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(dir.string(), "/golden.json: ", error.what()));
  }
}

}  // namespace tessera::golden
