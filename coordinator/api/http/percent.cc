// Percent decoding, see percent.h.

#include "coordinator/api/http/percent.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"

namespace tessera::api {

std::string PercentDecode(std::string_view text) {
  std::string decoded;
  decoded.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '%' && i + 2 < text.size() &&
                        absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 1])) &&
                        absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 2]));
    if (!escape) {
      decoded.push_back(text[i]);
      continue;
    }
    decoded += absl::HexStringToBytes(std::string(text.substr(i + 1, 2)));
    i += 2;
  }
  return decoded;
}

}  // namespace tessera::api
