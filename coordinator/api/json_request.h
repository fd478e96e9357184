// Request bodies as JSON: a bounded parse (depth, values, no duplicate keys, valid UTF-8, finite
// numbers) and readers of typed fields whose errors name the parameter. Bytes from outside; fuzzed.
// Any thread.

#ifndef TESSERA_COORDINATOR_API_JSON_REQUEST_H_
#define TESSERA_COORDINATOR_API_JSON_REQUEST_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::api {

inline constexpr int kJsonDepthMax = 64;             // arrays and objects inside each other
inline constexpr size_t kJsonValuesMax = 2'000'000;  // of one body

using Json = nlohmann::json;

// INVALID_ARGUMENT saying what is wrong and at which byte. The top must be an object.
absl::StatusOr<Json> ParseJsonObject(std::string_view body);

// Typed readers of one object's fields. A missing field and null leave *out as it is. `prefix` goes
// before the name in errors ("messages[2].").
class JsonFields {
 public:
  explicit JsonFields(const Json& object, std::string prefix = "")
      : object_(object), prefix_(std::move(prefix)) {}

  // The value, or nullptr when it is missing or null.
  const Json* Find(const char* name) const;
  std::string Path(const char* name) const { return prefix_ + name; }

  absl::Status Read(const char* name, std::optional<double>* out) const;
  absl::Status Read(const char* name, std::optional<int64_t>* out) const;
  absl::Status Read(const char* name, std::optional<bool>* out) const;
  absl::Status Read(const char* name, std::optional<std::string>* out) const;
  absl::Status Read(const char* name, std::vector<int32_t>* out) const;  // token ids
  // A string or an array of strings.
  absl::Status ReadStrings(const char* name, std::vector<std::string>* out) const;
  // An integer of 64 bits, of either sign; negative ones by their two's complement.
  absl::Status ReadSeed(const char* name, std::optional<uint64_t>* out) const;

 private:
  absl::Status WrongType(const char* name, const std::string& wanted, const Json& met) const;
  // Of an integer parameter that takes `min` to `max`: `met` is something else, or beyond them.
  absl::Status NotThatInteger(const char* name, int64_t min, uint64_t max, const Json& met) const;

  const Json& object_;
  const std::string prefix_;
};

// A JSON array of token ids; `path` names it in errors.
absl::StatusOr<std::vector<int32_t>> ReadTokenIds(const Json& value, const std::string& path);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_JSON_REQUEST_H_
