// %2F -> "/" in request paths. Any thread.

#ifndef TESSERA_COORDINATOR_API_HTTP_PERCENT_H_
#define TESSERA_COORDINATOR_API_HTTP_PERCENT_H_

#include <string>
#include <string_view>

namespace tessera::api {

// What is not a valid escape stays as it is.
std::string PercentDecode(std::string_view text);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_HTTP_PERCENT_H_
