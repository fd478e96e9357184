// A hand-written YAML file as checked sections: every field is known, given once, and what is wrong
// is told with its line. Bounded in size and depth. Pure but for ReadYamlFile; any thread.

#ifndef TESSERA_COORDINATOR_LEDGER_YAML_FILE_H_
#define TESSERA_COORDINATOR_LEDGER_YAML_FILE_H_

#include <yaml-cpp/yaml.h>

#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tessera {

inline constexpr size_t kYamlFileBytesMax = 1 << 20;
inline constexpr int kYamlDepthMax = 8;
inline constexpr size_t kYamlNodesMax = 100'000;
inline constexpr size_t kYamlTextBytesMax = 256;  // of one text value

// One mapping of the file and where it is. Reading leaves `out` alone where the field is not there.
class YamlSection {
 public:
  YamlSection(YAML::Node node, std::string path);

  // INVALID_ARGUMENT unless it is a mapping of these fields alone, each given once.
  absl::Status CheckFields(std::initializer_list<const char*> known) const;
  bool Has(const char* field) const;
  absl::Status ReadNumber(const char* field, double min, double max, double* out) const;
  absl::Status ReadText(const char* field, std::string* out) const;
  // A day ("2026-01-31", UTC) or an RFC 3339 time.
  absl::Status ReadTime(const char* field, absl::Time* out) const;
  absl::Status ReadTexts(const char* field, size_t max, std::vector<std::string>* out) const;
  YamlSection Inner(const char* field) const;
  // The sections of a list; empty where the field is not there.
  absl::StatusOr<std::vector<YamlSection>> List(const char* field, size_t max) const;
  // "line 7: devices[1].hour <message>"; at the section itself where the field is not there.
  absl::Status Error(const char* field, const std::string& message) const;

 private:
  YAML::Node Find(const char* field) const;

  const YAML::Node node_;
  const std::string path_;
};

// INVALID_ARGUMENT with the line for what is not YAML, too deep or too much.
absl::StatusOr<YAML::Node> ParseYaml(std::string_view text);
// The bytes of a file of at most kYamlFileBytesMax; the error names `what` and the path.
absl::StatusOr<std::string> ReadYamlFile(const std::string& what, const std::string& path);

// Three capital letters.
bool IsCurrency(std::string_view text);
// Whether a name fits a pattern with `*` for any run of characters and `?` for any one.
bool FitsPattern(std::string_view pattern, std::string_view name);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_YAML_FILE_H_
