// Owners for what the Rust text library hands out, and its error codes as absl::Status. Included
// only by the .cc files of this folder; nothing of the C ABI shows in the headers that others
// include.

#ifndef TESSERA_COORDINATOR_TEXT_FFI_H_
#define TESSERA_COORDINATOR_TEXT_FFI_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/text/rust/tessera_text.h"

namespace tessera::text {

class OwnedBytes {
 public:
  OwnedBytes() = default;
  OwnedBytes(const OwnedBytes&) = delete;
  OwnedBytes& operator=(const OwnedBytes&) = delete;
  ~OwnedBytes() { tt_bytes_free(bytes_); }
  tt_bytes* out() { return &bytes_; }
  std::string str() const { return std::string(bytes_.data, bytes_.size); }

 private:
  tt_bytes bytes_{nullptr, 0};
};

class OwnedIds {
 public:
  OwnedIds() = default;
  OwnedIds(const OwnedIds&) = delete;
  OwnedIds& operator=(const OwnedIds&) = delete;
  ~OwnedIds() { tt_ids_free(ids_); }
  tt_ids* out() { return &ids_; }
  template <typename T>
  std::vector<T> vector() const {
    return std::vector<T>(ids_.data, ids_.data + ids_.size);
  }

 private:
  tt_ids ids_{nullptr, 0};
};

// `code` is what a tt_ function returned, `error` what it left there.
inline absl::Status ToStatus(int32_t code, const OwnedBytes& error) {
  switch (code) {
    case TT_OK:
      return absl::OkStatus();
    case TT_ARGUMENT:
    case TT_TEMPLATE:
      return absl::InvalidArgumentError(error.str());
    case TT_DAMAGED:
      return absl::DataLossError(error.str());
    case TT_LIMIT:
      return absl::ResourceExhaustedError(error.str());
    default:
      return absl::InternalError(error.str());
  }
}

}  // namespace tessera::text

#endif  // TESSERA_COORDINATOR_TEXT_FFI_H_
