// Bounded JSON parsing and typed fields, see json_request.h.

#include "coordinator/api/json_request.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

// Builds the document and stops at the first thing that is over a limit.
class BoundedBuilder {
 public:
  bool null() { return Add(nullptr); }
  bool boolean(bool value) { return Add(value); }
  bool number_integer(Json::number_integer_t value) { return Add(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return Add(value); }
  bool number_float(Json::number_float_t value, const Json::string_t&) { return Add(value); }
  bool string(Json::string_t& value) { return Add(std::move(value)); }
  bool binary(Json::binary_t&) { return Fail("binary values are not JSON"); }
  bool start_object(size_t) { return Open(Json::object()); }
  bool end_object() { return Close(); }
  bool start_array(size_t) { return Open(Json::array()); }
  bool end_array() { return Close(); }

  bool key(Json::string_t& name) {
    if (open_.back()->contains(name)) {
      return Fail(absl::StrCat("the key \"", name.substr(0, 64), "\" comes twice"));
    }
    slot_ = &(*open_.back())[name];
    return true;
  }

  bool parse_error(size_t position, const std::string&, const Json::exception& error) {
    // The library's sentence, without its own error number in front, and without the text that it
    // read last: that may be a prompt.
    std::string what = error.what();
    what.resize(std::min(what.find("; last read"), what.size()));
    const size_t bracket = what.find("] ");
    const size_t begin = bracket == std::string::npos ? 0 : bracket + 2;
    return Fail(absl::StrCat("byte ", position, ": ", what.substr(begin, 200)));
  }

  Json TakeDocument() { return std::move(document_); }
  const std::string& error() const { return error_; }

 private:
  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

  // Puts a value where the next one belongs: the top, an array's end, or the key just read.
  bool Place(Json value, Json** placed) {
    if (++values_ > kJsonValuesMax) {
      return Fail(absl::StrCat("more than ", kJsonValuesMax, " values"));
    }
    if (open_.empty()) {
      document_ = std::move(value);
      *placed = &document_;
    } else if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      *placed = &open_.back()->back();
    } else {
      *slot_ = std::move(value);
      *placed = slot_;
    }
    return true;
  }
  bool Add(Json value) {
    Json* placed = nullptr;
    return Place(std::move(value), &placed);
  }
  bool Open(Json value) {
    if (open_.size() >= kJsonDepthMax) {
      return Fail(absl::StrCat("arrays and objects nest deeper than ", kJsonDepthMax));
    }
    Json* placed = nullptr;
    if (!Place(std::move(value), &placed)) return false;
    open_.push_back(placed);
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  Json document_;
  std::vector<Json*> open_;  // outermost first; an element is not moved while it is open
  Json* slot_ = nullptr;
  size_t values_ = 0;
  std::string error_;
};

}  // namespace

absl::StatusOr<Json> ParseJsonObject(std::string_view body) {
  BoundedBuilder builder;
  if (!Json::sax_parse(body.begin(), body.end(), &builder)) {
    return WithCode(absl::InvalidArgumentError(
                        absl::StrCat("the request body is not valid JSON: ", builder.error())),
                    "invalid_json");
  }
  Json document = builder.TakeDocument();
  if (!document.is_object()) {
    return WithCode(
        absl::InvalidArgumentError(absl::StrCat(
            "the request body must be a JSON object, it is a JSON ", document.type_name())),
        "invalid_json");
  }
  return document;
}

const Json* JsonFields::Find(const char* name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

absl::Status JsonFields::WrongType(const char* name, const std::string& wanted,
                                   const Json& met) const {
  return WithCode(
      BadParam(Path(name), absl::StrCat("must be ", wanted, ", it is of type ", met.type_name())),
      "invalid_type");
}

absl::Status JsonFields::NotThatInteger(const char* name, int64_t min, uint64_t max,
                                        const Json& met) const {
  if (!met.is_number()) return WrongType(name, "an integer", met);
  // Integers beyond 64 bits are parsed as floats: what is wrong with them is their size.
  const bool is_beyond = met.is_number_integer() || std::abs(met.get<double>()) >= 0x1p63;
  if (is_beyond) {
    return BadParam(Path(name), absl::StrCat("must be an integer from ", min, " to ", max,
                                             ", it is ", met.dump()));
  }
  return WithCode(BadParam(Path(name), absl::StrCat("must be an integer, it is ", met.dump())),
                  "invalid_type");
}

absl::Status JsonFields::Read(const char* name, std::optional<double>* out) const {
  const Json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_number()) return WrongType(name, "a number", *value);
  *out = value->get<double>();
  return absl::OkStatus();
}

absl::Status JsonFields::Read(const char* name, std::optional<int64_t>* out) const {
  const Json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  using Limits = std::numeric_limits<int64_t>;
  const bool fits = value->is_number_integer() &&
                    (!value->is_number_unsigned() ||
                     value->get<uint64_t>() <= static_cast<uint64_t>(Limits::max()));
  if (!fits) return NotThatInteger(name, Limits::min(), uint64_t{Limits::max()}, *value);
  *out = value->get<int64_t>();
  return absl::OkStatus();
}

absl::Status JsonFields::Read(const char* name, std::optional<bool>* out) const {
  const Json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_boolean()) return WrongType(name, "true or false", *value);
  *out = value->get<bool>();
  return absl::OkStatus();
}

absl::Status JsonFields::Read(const char* name, std::optional<std::string>* out) const {
  const Json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_string()) return WrongType(name, "a string", *value);
  *out = value->get<std::string>();
  return absl::OkStatus();
}

absl::Status JsonFields::Read(const char* name, std::vector<int32_t>* out) const {
  const Json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  TESSERA_ASSIGN_OR_RETURN(*out, ReadTokenIds(*value, Path(name)));
  return absl::OkStatus();
}

absl::Status JsonFields::ReadStrings(const char* name, std::vector<std::string>* out) const {
  const Json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  if (value->is_string()) {
    *out = {value->get<std::string>()};
    return absl::OkStatus();
  }
  if (!value->is_array()) return WrongType(name, "a string or an array of strings", *value);
  std::vector<std::string> strings;
  for (const Json& item : *value) {
    if (!item.is_string()) return WrongType(name, "a string or an array of strings", item);
    strings.push_back(item.get<std::string>());
  }
  *out = std::move(strings);
  return absl::OkStatus();
}

absl::Status JsonFields::ReadSeed(const char* name, std::optional<uint64_t>* out) const {
  const Json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_number_integer()) {
    return NotThatInteger(name, std::numeric_limits<int64_t>::min(),
                          std::numeric_limits<uint64_t>::max(), *value);
  }
  *out = value->is_number_unsigned() ? value->get<uint64_t>()
                                     : static_cast<uint64_t>(value->get<int64_t>());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ReadTokenIds(const Json& value, const std::string& path) {
  if (!value.is_array()) {
    return WithCode(BadParam(path, absl::StrCat("must be an array of token ids, it is of type ",
                                                value.type_name())),
                    "invalid_type");
  }
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (const Json& item : value) {
    if (!item.is_number_integer()) {
      return WithCode(BadParam(path, absl::StrCat("must hold token ids only, it holds one of type ",
                                                  item.type_name())),
                      "invalid_type");
    }
    // Unsigned values over the int64 range come out negative here, and are refused as such.
    const int64_t id = item.get<int64_t>();
    if (id < 0 || id > std::numeric_limits<int32_t>::max()) {
      return BadParam(path, absl::StrCat("holds ", item.dump(), ", which is no token id"));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

}  // namespace tessera::api
