// Reads a safetensors header as a stream of JSON events, so that nothing of it is kept but the
// tensors and a repeated name is seen. Takes hostile input: every size is checked before it is
// used.

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "models/checkpoint.h"

namespace tessera {
namespace {

constexpr size_t kLengthBytes = 8;  // of the header, little-endian, before it
constexpr size_t kTensorsMax = 1'000'000;
constexpr size_t kDimensionsMax = 8;
constexpr size_t kNameMax = 1024;  // bytes

std::string Quoted(const std::string& name) {
  return absl::StrCat("'", absl::CEscape(name.substr(0, kNameMax)), "'");
}

std::optional<DType> DTypeOf(std::string_view name) {
  if (name == "F32") return DType::kFloat32;
  if (name == "BF16") return DType::kBFloat16;
  if (name == "F16") return DType::kFloat16;
  if (name == "F8_E4M3") return DType::kFloat8E4M3;
  if (name == "I32") return DType::kInt32;
  if (name == "I64") return DType::kInt64;
  if (name == "U8") return DType::kUInt8;
  return std::nullopt;
}

// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"k": "v"}}
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<TensorEntry> TakeTensors() { return std::move(tensors_); }
  const std::string& error() const { return error_; }

  bool null() override { return Value("null"); }
  bool boolean(bool) override { return Value("a boolean"); }
  bool number_integer(number_integer_t) override { return Value("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return Value("a fraction"); }
  bool binary(binary_t&) override { return Value("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kArray) return Value("a number");
    if (field_ == Field::kShape) {
      if (shape_.size() == kDimensionsMax) return Fail("has more than 8 dimensions");
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Fail(absl::StrCat("has a dimension of ", value));
      }
      shape_.push_back(static_cast<int64_t>(value));
    } else {
      if (offsets_.size() == 2) return Fail("has more than two data_offsets");
      offsets_.push_back(value);
    }
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || field_ != Field::kDType) return Value("a string");
    dtype_ = DTypeOf(value);
    if (!dtype_.has_value()) {
      return Fail(absl::StrCat("has dtype ", Quoted(value),
                               "; known are F32, BF16, F16, F8_E4M3, I32, I64, U8"));
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kOutside) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop) {
      place_ = name_ == "__metadata__" ? Place::kMetadata : Place::kTensor;
    } else {
      return Value("an object");
    }
    return true;
  }

  bool key(string_t& value) override {
    if (place_ == Place::kTop) return BeginTensor(value);
    if (place_ == Place::kMetadata) return true;
    if (value == "dtype")
      field_ = Field::kDType;
    else if (value == "shape")
      field_ = Field::kShape;
    else if (value == "data_offsets")
      field_ = Field::kOffsets;
    else
      return Fail(absl::StrCat("has an unknown field ", Quoted(value)));
    if (!fields_.insert(field_).second) return Fail(absl::StrCat("says ", value, " twice"));
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || (field_ != Field::kShape && field_ != Field::kOffsets)) {
      return Value("an array");
    }
    place_ = Place::kArray;
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor && !EndTensor()) return false;
    place_ = place_ == Place::kTop ? Place::kOutside : Place::kTop;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    error_ = absl::StrCat("the header is not valid JSON at byte ", position);
    return false;
  }

 private:
  enum class Place { kOutside, kTop, kMetadata, kTensor, kArray };
  enum class Field { kDType, kShape, kOffsets };

  bool Fail(const std::string& what) {
    error_ = absl::StrCat("tensor ", Quoted(name_), " ", what);
    return false;
  }
  bool Value(const std::string& kind) {
    if (place_ == Place::kOutside) {
      error_ = absl::StrCat("the header is ", kind, ", not an object");
      return false;
    }
    return Fail(absl::StrCat("has ", kind, " where there must be none"));
  }

  bool BeginTensor(const std::string& name) {
    name_ = name;
    if (name.size() > kNameMax) return Fail("has a name of more than 1024 bytes");
    // Names go into messages and so to terminals.
    if (std::any_of(name.begin(), name.end(),
                    [](unsigned char c) { return c < 0x20 || c == 0x7f; })) {
      return Fail("has control characters in its name");
    }
    if (!names_.insert(name).second) return Fail("is there twice");
    if (names_.size() > kTensorsMax) return Fail("is one more than the 1000000 tensors allowed");
    fields_.clear();
    shape_.clear();
    offsets_.clear();
    return true;
  }

  bool EndTensor() {
    if (fields_.size() != 3) return Fail("lacks one of dtype, shape, data_offsets");
    if (offsets_.size() != 2) return Fail("does not have two data_offsets");
    uint64_t bytes = DTypeSize(*dtype_);
    for (const int64_t n : shape_) {
      if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(n), &bytes)) {
        return Fail(
            absl::StrCat("has the shape [", absl::StrJoin(shape_, ", "), "], which is too large"));
      }
    }
    if (offsets_[1] < offsets_[0] || offsets_[1] - offsets_[0] != bytes) {
      return Fail(absl::StrCat("has data_offsets [", offsets_[0], ", ", offsets_[1], "], but ",
                               bytes, " bytes by its shape [", absl::StrJoin(shape_, ", "), "] of ",
                               DTypeName(*dtype_)));
    }
    tensors_.push_back({name_, *dtype_, shape_, offsets_[0], offsets_[1]});
    return true;
  }

  Place place_ = Place::kOutside;
  Field field_ = Field::kDType;
  std::string name_;
  std::set<std::string> names_;
  std::set<Field> fields_;
  std::optional<DType> dtype_;
  std::vector<int64_t> shape_;
  std::vector<uint64_t> offsets_;
  std::vector<TensorEntry> tensors_;
  std::string error_;
};

// The tensors, in order of place, must tile [0, data_bytes) exactly.
absl::Status CheckTiling(const std::vector<TensorEntry>& tensors, uint64_t data_bytes) {
  uint64_t end = 0;
  const std::string* previous = nullptr;
  for (const TensorEntry& tensor : tensors) {
    if (tensor.begin < end) {
      return absl::InvalidArgumentError(absl::StrCat("tensors ", Quoted(*previous), " and ",
                                                     Quoted(tensor.name), " overlap: one ends at ",
                                                     end, ", the other begins at ", tensor.begin));
    }
    if (tensor.begin > end) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a hole of ", tensor.begin - end, " bytes lies before tensor ", Quoted(tensor.name)));
    }
    if (tensor.end > data_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the file is truncated: tensor ", Quoted(tensor.name), " ends at byte ", tensor.end,
          " of the data, of which there are ", data_bytes, "; fetch the file again"));
    }
    end = tensor.end;
    previous = &tensor.name;
  }
  if (end != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(data_bytes - end, " bytes after the last tensor belong to none"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(std::string_view file_prefix,
                                                                uint64_t file_bytes) {
  if (file_prefix.size() < kLengthBytes || file_bytes < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a safetensors file: ", file_bytes, " bytes are too few"));
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    header_bytes |= static_cast<uint64_t>(static_cast<uint8_t>(file_prefix[i])) << (8 * i);
  }
  if (header_bytes > kSafetensorsHeaderMax) {
    return absl::InvalidArgumentError(absl::StrCat("not a safetensors file: a header of ",
                                                   header_bytes, " bytes; at most ",
                                                   kSafetensorsHeaderMax));
  }
  if (header_bytes > file_bytes - kLengthBytes ||
      header_bytes > file_prefix.size() - kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the file is truncated: its header has ",
                                                   header_bytes, " bytes, the file ", file_bytes,
                                                   "; fetch the file again"));
  }
  const std::string_view header = file_prefix.substr(kLengthBytes, header_bytes);
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &handler)) {
    return absl::InvalidArgumentError(handler.error());
  }
  std::vector<TensorEntry> tensors = handler.TakeTensors();
  std::sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  const uint64_t data_begin = kLengthBytes + header_bytes;
  TESSERA_RETURN_IF_ERROR(CheckTiling(tensors, file_bytes - data_begin));
  for (TensorEntry& tensor : tensors) {
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  return tensors;
}

}  // namespace tessera
