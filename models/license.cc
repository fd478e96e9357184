// LicenseOf of checkpoint.h: what the directory says about itself, shown to people, decided upon by
// nobody.

#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "models/checkpoint.h"

namespace tessera {
namespace {

constexpr size_t kBytesMax = 64 << 10;  // of a model card that are looked at
constexpr size_t kLicenseMax = 120;     // characters shown

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

// The first lines of a file; nothing if it is not one.
std::vector<std::string> Head(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return {};
  std::string text(kBytesMax, '\0');
  std::ifstream in(path, std::ios::binary);
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  return absl::StrSplit(text, '\n');
}

// `license` (and `license_name` where that is "other") between the --- lines of a model card. One,
// or a list with an item per line.
std::string FromCard(const std::filesystem::path& path) {
  const std::vector<std::string> lines = Head(path);
  if (lines.empty() || absl::StripAsciiWhitespace(lines.front()) != "---") return "";
  std::string license;
  std::string name;
  bool in_list = false;
  for (size_t i = 1; i < lines.size(); ++i) {
    absl::string_view rest = lines[i];
    if (absl::StripAsciiWhitespace(rest) == "---") break;
    if (absl::string_view item = absl::StripLeadingAsciiWhitespace(rest);
        in_list && absl::ConsumePrefix(&item, "- ")) {
      absl::StrAppend(&license, license.empty() ? "" : ", ", Tidy(item));
      continue;
    }
    in_list = false;
    if (absl::ConsumePrefix(&rest, "license:")) {
      license = Tidy(rest);
      in_list = license.empty();
    } else if (absl::ConsumePrefix(&rest, "license_name:")) {
      name = Tidy(rest);
    }
  }
  return license == "other" && !name.empty() ? name : license;
}

std::string FirstLine(const std::filesystem::path& path) {
  for (const std::string& line : Head(path)) {
    if (std::string tidy = Tidy(line); !tidy.empty()) return tidy;
  }
  return "";
}

}  // namespace

std::string LicenseOf(const std::string& directory) {
  const std::filesystem::path root(directory);
  if (std::string license = FromCard(root / "README.md"); !license.empty()) return license;
  for (const char* name : {"LICENSE", "LICENSE.txt", "LICENSE.md", "LICENSE-MODEL"}) {
    if (std::string license = FirstLine(root / name); !license.empty()) return license;
  }
  return "unknown";
}

}  // namespace tessera
