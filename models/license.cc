// LicenseOf of checkpoint.h: what the directory says about itself, shown to people, decided upon by
// nobody.

#include <filesystem>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "models/checkpoint.h"

namespace tessera {
namespace {

constexpr int kLinesMax = 200;       // of a model card that are looked at
constexpr size_t kLicenseMax = 120;  // characters shown

// One line, without quotes or control characters.
std::string Tidy(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (text.size() >= 2 && (text.front() == '"' || text.front() == '\'') &&
      text.back() == text.front()) {
    text = text.substr(1, text.size() - 2);
  }
  std::string tidy;
  for (const char c : text.substr(0, kLicenseMax)) {
    if (!absl::ascii_iscntrl(static_cast<unsigned char>(c))) tidy.push_back(c);
  }
  return tidy;
}

// `license` (and `license_name` where that is "other") between the --- lines of a model card.
std::string FromCard(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string line;
  if (!std::getline(in, line) || absl::StripAsciiWhitespace(line) != "---") return "";
  std::string license;
  std::string name;
  for (int i = 0; i < kLinesMax && std::getline(in, line); ++i) {
    absl::string_view rest = line;
    if (absl::StripAsciiWhitespace(rest) == "---") break;
    if (absl::ConsumePrefix(&rest, "license:")) license = Tidy(rest);
    if (absl::ConsumePrefix(&rest, "license_name:")) name = Tidy(rest);
  }
  return license == "other" && !name.empty() ? name : license;
}

std::string FirstLine(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string line;
  for (int i = 0; i < kLinesMax && std::getline(in, line); ++i) {
    if (std::string tidy = Tidy(line); !tidy.empty()) return tidy;
  }
  return "";
}

}  // namespace

std::string LicenseOf(const std::string& directory) {
  const std::filesystem::path root(directory);
  if (std::string license = FromCard(root / "README.md"); !license.empty()) return license;
  for (const char* name : {"LICENSE", "LICENSE.txt", "LICENSE.md"}) {
    if (std::string license = FirstLine(root / name); !license.empty()) return license;
  }
  return "unknown";
}

}  // namespace tessera
