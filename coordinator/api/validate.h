// What a client may ask of a generation: parameters as they came, their ranges, and the Request
// that they become. Both front doors end here, so a limit is stated once. Any thread.

#ifndef TESSERA_COORDINATOR_API_VALIDATE_H_
#define TESSERA_COORDINATOR_API_VALIDATE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/served_model.h"
#include "coordinator/sched/request.h"
#include "coordinator/text/stop_strings.h"

namespace tessera::api {

inline constexpr double kTemperatureMax = 2.0;
inline constexpr size_t kStopTokensMax = 64;  // stop_token_ids of one request

// Unset: the model's generation_config.json decides, else the API's default.
struct GenerateParams {
  std::optional<double> temperature;
  std::optional<int64_t> top_k;  // -1 and 0: off
  std::optional<double> top_p;
  std::optional<uint64_t> seed;
  std::optional<int64_t> max_tokens;
  const char* max_tokens_name = "max_tokens";  // as the client called it
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop = false;
  absl::Time deadline = absl::InfiniteFuture();
};

// INVALID_ARGUMENT naming the first parameter that is out of its range.
absl::Status ValidateParams(const GenerateParams& params, const ServedModel& model);

struct RequestIdentity {
  RequestId id = 0;
  std::string public_id;
  absl::Time arrival;
  uint64_t drawn_seed = 0;  // where the client sent none
};

// `prompt` is already known to fit (see prompt.h). max_tokens defaults to what the context leaves;
// more than that is refused with all numbers.
absl::StatusOr<std::shared_ptr<const Request>> MakeRequest(const ServedModel& model,
                                                           const GenerateParams& params,
                                                           std::vector<int32_t> prompt,
                                                           RequestIdentity identity);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_VALIDATE_H_
