// See config_reader.h.

#include "models/config_reader.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "models/checkpoint.h"

namespace tessera {
namespace {

constexpr size_t kShownValueMax = 80;  // characters of a value in a message

// Nesting depth of the text, counted before it is parsed. Brackets inside strings do not count.
int Depth(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

std::string Shown(const ConfigReader::Json& value) {
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > kShownValueMax) text = text.substr(0, kShownValueMax) + "...";
  return text;
}

}  // namespace

absl::StatusOr<ConfigReader> ConfigReader::Parse(const std::string& text,
                                                 const std::string& source) {
  if (text.size() > kConfigBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(source, " has ", text.size(), " bytes; at most ",
                                                   kConfigBytesMax, " are read"));
  }
  if (const int depth = Depth(text); depth > kConfigDepthMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        source, " is nested ", depth, " levels deep; at most ", kConfigDepthMax, " are allowed"));
  }
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(source, " is not valid JSON: ", error.what()));
  }
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, " holds ", Shown(json), "; it must hold a JSON object"));
  }
  return ConfigReader(std::move(json), source, "");
}

ConfigReader ConfigReader::WithDefaults(const Json& defaults) const {
  Json json = defaults;
  json.update(json_);
  return ConfigReader(std::move(json), source_, path_);
}

const ConfigReader::Json* ConfigReader::Find(const std::string& key) const {
  const auto it = json_.find(key);
  return it == json_.end() || it->is_null() ? nullptr : &*it;
}

absl::Status ConfigReader::Refuse(const std::string& key, const std::string& allowed) const {
  const auto it = json_.find(key);
  if (it == json_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source_, " has no \"", path_, key, "\"; it must be ", allowed));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(source_, ": \"", path_, key, "\" is ", Shown(*it), "; it must be ", allowed));
}

absl::StatusOr<int64_t> ConfigReader::Int(const std::string& key, int64_t min, int64_t max) const {
  const Json* value = Find(key);
  const bool fits =
      value != nullptr && value->is_number_integer() &&
      !(value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) &&
      value->get<int64_t>() >= min && value->get<int64_t>() <= max;
  if (!fits) return Refuse(key, absl::StrCat("an integer from ", min, " to ", max));
  return value->get<int64_t>();
}

absl::StatusOr<int64_t> ConfigReader::IntOr(const std::string& key, int64_t otherwise, int64_t min,
                                            int64_t max) const {
  if (!Has(key)) return otherwise;
  return Int(key, min, max);
}

absl::StatusOr<double> ConfigReader::Number(const std::string& key, double min, double max) const {
  const Json* value = Find(key);
  if (value == nullptr || !value->is_number() || !std::isfinite(value->get<double>()) ||
      value->get<double>() < min || value->get<double>() > max) {
    return Refuse(key, absl::StrCat("a number from ", min, " to ", max));
  }
  return value->get<double>();
}

absl::StatusOr<double> ConfigReader::NumberOr(const std::string& key, double otherwise, double min,
                                              double max) const {
  if (!Has(key)) return otherwise;
  return Number(key, min, max);
}

absl::StatusOr<bool> ConfigReader::BoolOr(const std::string& key, bool otherwise) const {
  const Json* value = Find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) return Refuse(key, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> ConfigReader::StringOr(const std::string& key,
                                                   const std::string& otherwise) const {
  const Json* value = Find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_string()) return Refuse(key, "a string");
  return value->get<std::string>();
}

absl::StatusOr<std::optional<ConfigReader>> ConfigReader::Object(const std::string& key) const {
  const Json* value = Find(key);
  if (value == nullptr) return std::optional<ConfigReader>();
  if (!value->is_object()) return Refuse(key, "an object");
  return std::optional<ConfigReader>(ConfigReader(*value, source_, absl::StrCat(path_, key, ".")));
}

}  // namespace tessera
