// One HTTP GET with a deadline, for commands that ask a server of ours. Blocks the caller.

#ifndef TESSERA_CLI_HTTP_GET_H_
#define TESSERA_CLI_HTTP_GET_H_

#include <cstddef>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tessera {

inline constexpr size_t kHttpAnswerBytesMax = 256 << 20;

struct HttpAnswer {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

// `url`: [http://]host:port; no TLS. UNAVAILABLE names the address that does not answer.
absl::StatusOr<HttpAnswer> HttpGet(const std::string& url, const std::string& target,
                                   const std::string& bearer_token, absl::Duration limit);

}  // namespace tessera

#endif  // TESSERA_CLI_HTTP_GET_H_
