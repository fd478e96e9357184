// JSON with the line of every field, so that what is wrong in a hand-written file can be told where
// it is. Duplicate fields are errors: one of them would be ignored silently.

#ifndef TESSERA_COORDINATOR_TENANTS_JSON_LINES_H_
#define TESSERA_COORDINATOR_TENANTS_JSON_LINES_H_

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

struct JsonLines {
  nlohmann::json root;
  std::map<std::string, int> lines;  // "tenants[1].limits.requests_in_flight" -> line, from 1

  // INVALID_ARGUMENT "line 7: tenants[1].weight <message>".
  absl::Status Error(const std::string& path, const std::string& message) const;
};

// INVALID_ARGUMENT with the line for what is not JSON.
absl::StatusOr<JsonLines> ParseJsonLines(std::string_view text);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TENANTS_JSON_LINES_H_
