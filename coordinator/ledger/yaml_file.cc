// See the header. Fields that nobody knows are errors, since a price that is misspelt would be no
// price.

#include "coordinator/ledger/yaml_file.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"

namespace tessera {
namespace {

int LineOf(const YAML::Node& node) { return node.Mark().is_null() ? 1 : node.Mark().line + 1; }

absl::Status ErrorAt(const YAML::Node& node, const std::string& path, const std::string& message) {
  return absl::InvalidArgumentError(
      absl::StrCat("line ", LineOf(node), ": ", path.empty() ? "the file" : path, " ", message));
}

// Aliases make small files large when they are followed, so what is counted is what a reader sees.
absl::Status CheckSize(const YAML::Node& node, int depth, size_t* nodes) {
  if (depth > kYamlDepthMax) {
    return ErrorAt(node, "", absl::StrCat("is nested more than ", kYamlDepthMax, " deep here"));
  }
  if (++*nodes > kYamlNodesMax) {
    return ErrorAt(node, "", absl::StrCat("has more than ", kYamlNodesMax, " values"));
  }
  for (const auto& child : node) {
    TESSERA_RETURN_IF_ERROR(CheckSize(node.IsMap() ? child.second : child, depth + 1, nodes));
  }
  return absl::OkStatus();
}

std::string Shown(const YAML::Node& node) {
  if (!node.IsScalar()) return node.IsNull() ? "empty" : "no plain value";
  return absl::StrCat("`", node.Scalar().substr(0, 64), "`");
}

bool ParseDay(const std::string& text, absl::Time* out) {
  absl::CivilDay day;
  if (!absl::ParseCivilTime(text, &day)) return false;
  *out = absl::FromCivil(day, absl::UTCTimeZone());
  return true;
}

}  // namespace

YamlSection::YamlSection(YAML::Node node, std::string path)
    : node_(std::move(node)), path_(std::move(path)) {}

absl::Status YamlSection::CheckFields(std::initializer_list<const char*> known) const {
  if (!node_.IsMap()) return ErrorAt(node_, path_, "must be a mapping of fields and values");
  std::set<std::string> given;
  for (const auto& field : node_) {
    if (!field.first.IsScalar()) return ErrorAt(field.first, path_, "has a field without a name");
    const std::string& name = field.first.Scalar();
    const std::string path = path_.empty() ? name : absl::StrCat(path_, ".", name);
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return ErrorAt(field.first, path,
                     absl::StrCat("is not known; there is ", absl::StrJoin(known, ", ")));
    }
    if (!given.insert(name).second) return ErrorAt(field.first, path, "is given twice");
  }
  return absl::OkStatus();
}

YAML::Node YamlSection::Find(const char* field) const {
  for (const auto& each : node_) {
    if (each.first.Scalar() == field) return each.second;
  }
  return YAML::Node(YAML::NodeType::Undefined);
}

bool YamlSection::Has(const char* field) const { return Find(field).IsDefined(); }

absl::Status YamlSection::Error(const char* field, const std::string& message) const {
  const YAML::Node node = Find(field);
  if (!node.IsDefined()) {
    return ErrorAt(node_, path_, absl::StrCat("has no ", field, "; it ", message));
  }
  return ErrorAt(node, path_.empty() ? field : absl::StrCat(path_, ".", field), message);
}

absl::Status YamlSection::ReadNumber(const char* field, double min, double max, double* out) const {
  const YAML::Node node = Find(field);
  if (!node.IsDefined()) return absl::OkStatus();
  double value = 0;
  if (!node.IsScalar() || !YAML::convert<double>::decode(node, value) || !(value >= min) ||
      !(value <= max)) {
    return Error(field,
                 absl::StrCat("is ", Shown(node), ", must be a number from ", min, " to ", max));
  }
  *out = value;
  return absl::OkStatus();
}

absl::Status YamlSection::ReadText(const char* field, std::string* out) const {
  const YAML::Node node = Find(field);
  if (!node.IsDefined()) return absl::OkStatus();
  if (!node.IsScalar() || node.Scalar().empty() || node.Scalar().size() > kYamlTextBytesMax) {
    return Error(field, absl::StrCat("must be a text of 1 to ", kYamlTextBytesMax, " bytes"));
  }
  *out = node.Scalar();
  return absl::OkStatus();
}

absl::Status YamlSection::ReadTime(const char* field, absl::Time* out) const {
  std::string text;
  TESSERA_RETURN_IF_ERROR(ReadText(field, &text));
  if (text.empty()) return absl::OkStatus();
  std::string reason;
  if (ParseDay(text, out) || absl::ParseTime(absl::RFC3339_full, text, out, &reason)) {
    return absl::OkStatus();
  }
  return Error(field, absl::StrCat("is `", text.substr(0, 64),
                                   "`, must be a day like 2026-01-31 (UTC) or a time like "
                                   "2026-01-31T12:00:00Z"));
}

absl::Status YamlSection::ReadTexts(const char* field, size_t max,
                                    std::vector<std::string>* out) const {
  const YAML::Node node = Find(field);
  if (!node.IsDefined()) return absl::OkStatus();
  if (!node.IsSequence() || node.size() == 0 || node.size() > max) {
    return Error(field, absl::StrCat("must be a list of 1 to ", max, " texts"));
  }
  for (const auto& each : node) {
    if (!each.IsScalar() || each.Scalar().empty() || each.Scalar().size() > kYamlTextBytesMax) {
      return Error(field, absl::StrCat("must hold texts of 1 to ", kYamlTextBytesMax, " bytes"));
    }
    out->push_back(each.Scalar());
  }
  return absl::OkStatus();
}

YamlSection YamlSection::Inner(const char* field) const {
  return YamlSection(Find(field), path_.empty() ? field : absl::StrCat(path_, ".", field));
}

absl::StatusOr<std::vector<YamlSection>> YamlSection::List(const char* field, size_t max) const {
  std::vector<YamlSection> sections;
  const YAML::Node node = Find(field);
  if (!node.IsDefined()) return sections;
  if (!node.IsSequence()) return Error(field, "must be a list");
  if (node.size() > max) {
    return Error(field, absl::StrCat("has ", node.size(), " entries, at most ", max));
  }
  for (const auto& each : node) {
    const std::string path = path_.empty() ? field : absl::StrCat(path_, ".", field);
    sections.emplace_back(each, absl::StrCat(path, "[", sections.size(), "]"));
  }
  return sections;
}

absl::StatusOr<YAML::Node> ParseYaml(std::string_view text) {
  if (text.size() > kYamlFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("line 1: the file has more than ", kYamlFileBytesMax, " bytes"));
  }
  YAML::Node root;
  try {
    root = YAML::Load(std::string(text));
  } catch (const YAML::Exception& exception) {
    const int line = exception.mark.is_null() ? 1 : exception.mark.line + 1;
    return absl::InvalidArgumentError(
        absl::StrCat("line ", line, ": not valid YAML: ", exception.msg));
  }
  size_t nodes = 0;
  TESSERA_RETURN_IF_ERROR(CheckSize(root, 0, &nodes));
  return root;
}

absl::StatusOr<std::string> ReadYamlFile(const std::string& what, const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(what, " ", path, " cannot be opened"));
  std::string text(kYamlFileBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(what, " ", path, " is empty or cannot be read"));
  }
  return text;
}

bool IsCurrency(std::string_view text) {
  return text.size() == 3 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

bool FitsPattern(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0;
  size_t star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;  // the last star takes one character more
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace tessera
