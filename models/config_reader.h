// Strict reading of a JSON configuration file. Every getter names the file, the key, the value it
// met and what is allowed. Used while a model is opened, by ParseModelSpec and the families;
// nothing is kept. Limits: kConfigBytesMax bytes of text, kConfigDepthMax levels of nesting.

#ifndef TESSERA_MODELS_CONFIG_READER_H_
#define TESSERA_MODELS_CONFIG_READER_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

inline constexpr int kConfigDepthMax = 64;

// Any JSON text of at most kConfigDepthMax levels. INVALID_ARGUMENT names `source` and what is
// wrong with it; a key that an object has twice is an error, as readers differ in which of them
// counts.
absl::StatusOr<nlohmann::json> ParseJson(const std::string& text, const std::string& source);

class ConfigReader {
 public:
  using Json = nlohmann::json;

  // `source` names the file in messages. The text must hold a JSON object.
  static absl::StatusOr<ConfigReader> Parse(const std::string& text, const std::string& source);

  // True if the key is there and not null. A null means "not said" in Hugging Face configs.
  bool Has(const std::string& key) const { return Find(key) != nullptr; }
  // True if the key is there, null or not: where null means something else than silence.
  bool Mentions(const std::string& key) const { return json_.contains(key); }

  // An integer in [min, max]; the first form requires the key, the second has a default.
  absl::StatusOr<int64_t> Int(const std::string& key, int64_t min, int64_t max) const;
  absl::StatusOr<int64_t> IntOr(const std::string& key, int64_t otherwise, int64_t min,
                                int64_t max) const;
  // A finite number in [min, max].
  absl::StatusOr<double> Number(const std::string& key, double min, double max) const;
  absl::StatusOr<double> NumberOr(const std::string& key, double otherwise, double min,
                                  double max) const;
  absl::StatusOr<bool> BoolOr(const std::string& key, bool otherwise) const;
  absl::StatusOr<std::string> StringOr(const std::string& key, const std::string& otherwise) const;
  // The object under `key`; empty if there is none.
  absl::StatusOr<std::optional<ConfigReader>> Object(const std::string& key) const;
  // This object with the values of `defaults` where it says nothing.
  ConfigReader WithDefaults(const Json& defaults) const;
  // The value under `key`, or null if there is none.
  const Json* Find(const std::string& key) const;

  // INVALID_ARGUMENT: `source: "key" is <value>; it must be <allowed>`, or `has no "key"`.
  absl::Status Refuse(const std::string& key, const std::string& allowed) const;
  // The same as UNIMPLEMENTED, for what others can do.
  absl::Status RefuseForNow(const std::string& key, const std::string& allowed) const;
  // The keys that are there and not null.
  std::vector<std::string> Keys() const;

 private:
  ConfigReader(Json json, std::string source, std::string path)
      : json_(std::move(json)), source_(std::move(source)), path_(std::move(path)) {}

  Json json_;
  std::string source_;
  std::string path_;  // of this object inside the file, "" or "rope_scaling."
};

}  // namespace tessera

#endif  // TESSERA_MODELS_CONFIG_READER_H_
