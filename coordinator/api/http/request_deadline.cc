// The deadline that a client sends as a header, see http_call.h.

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "coordinator/api/http/http_call.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

constexpr char kMillisecondsHeader[] = "x-request-timeout-ms";
constexpr char kSecondsHeader[] = "x-request-timeout";

absl::StatusOr<absl::Duration> ParseTimeout(const char* header, const std::string& value,
                                            absl::Duration unit) {
  double number = 0;
  // Written so that NaN fails.
  if (!absl::SimpleAtod(value, &number) || !(number > 0 && number * unit <= kRequestTimeoutMax)) {
    return BadParam(header, absl::StrCat("must be a number above 0 and at most ",
                                         absl::ToInt64Nanoseconds(kRequestTimeoutMax) /
                                             absl::ToInt64Nanoseconds(unit),
                                         ", it is \"", value.substr(0, 64), "\""));
  }
  return number * unit;
}

}  // namespace

absl::StatusOr<absl::Time> RequestDeadline(const HttpRequest& request) {
  if (request.timeout_ms && request.timeout_seconds) {
    return BadParam(kMillisecondsHeader,
                    absl::StrCat("and `", kSecondsHeader, "` mean the same; send one of them"));
  }
  absl::StatusOr<absl::Duration> timeout = absl::InfiniteDuration();
  if (request.timeout_ms) {
    timeout = ParseTimeout(kMillisecondsHeader, *request.timeout_ms, absl::Milliseconds(1));
  } else if (request.timeout_seconds) {
    timeout = ParseTimeout(kSecondsHeader, *request.timeout_seconds, absl::Seconds(1));
  }
  if (!timeout.ok()) return timeout.status();
  return request.arrival + *timeout;
}

}  // namespace tessera::api
