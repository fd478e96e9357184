// See config_reader.h.

#include "models/config_reader.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
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

// Watches the parser for a key that its object has already.
class KeyWatch {
 public:
  bool operator()(int, nlohmann::json::parse_event_t event, const nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      open_.emplace_back();
    } else if (event == Event::object_end || event == Event::array_end) {
      open_.pop_back();
    } else if (event == Event::key) {
      Level& level = open_.back();
      level.key = parsed.get<std::string>();
      if (!level.keys.insert(level.key).second && twice_.empty()) twice_ = Path();
    }
    return true;
  }
  // The first such key, or "".
  const std::string& twice() const { return twice_; }

 private:
  struct Level {
    std::string key;             // the last one; "" in a list
    std::set<std::string> keys;  // of an object
  };
  std::string Path() const {
    std::string path;
    for (const Level& level : open_) {
      if (!level.key.empty()) absl::StrAppend(&path, path.empty() ? "" : ".", level.key);
    }
    return path;
  }
  std::vector<Level> open_;
  std::string twice_;
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseJson(const std::string& text, const std::string& source) {
  if (const int depth = Depth(text); depth > kConfigDepthMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        source, " is nested ", depth, " levels deep; at most ", kConfigDepthMax, " are allowed"));
  }
  KeyWatch watch;
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(text, std::ref(watch));
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(source, " is not valid JSON: ", error.what()));
  }
  if (!watch.twice().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, " has \"", absl::CEscape(watch.twice()), "\" twice"));
  }
  return json;
}

absl::StatusOr<ConfigReader> ConfigReader::Parse(const std::string& text,
                                                 const std::string& source) {
  if (text.size() > kConfigBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(source, " has ", text.size(), " bytes; at most ",
                                                   kConfigBytesMax, " are read"));
  }
  TESSERA_ASSIGN_OR_RETURN(Json json, ParseJson(text, source));
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

absl::Status ConfigReader::RefuseForNow(const std::string& key, const std::string& allowed) const {
  return absl::UnimplementedError(Refuse(key, allowed).message());
}

std::vector<std::string> ConfigReader::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json_.items()) {
    if (!value.is_null()) keys.push_back(key);
  }
  return keys;
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
