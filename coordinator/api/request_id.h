// A client's own request id, taken over when it can go into a header and a log line. Any thread.

#ifndef TESSERA_COORDINATOR_API_REQUEST_ID_H_
#define TESSERA_COORDINATOR_API_REQUEST_ID_H_

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "absl/strings/ascii.h"

namespace tessera::api {

inline constexpr size_t kRequestIdBytesMax = 128;

inline bool IsUsableRequestId(std::string_view id) {
  return !id.empty() && id.size() <= kRequestIdBytesMax &&
         std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' ||
                  c == '.';
         });
}

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_REQUEST_ID_H_
