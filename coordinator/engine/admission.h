// What a request costs the queue and how much may wait. A request counts from the moment it is
// taken until its first row is known to have been computed, or until its end. Pure; any thread.

#ifndef TESSERA_COORDINATOR_ENGINE_ADMISSION_H_
#define TESSERA_COORDINATOR_ENGINE_ADMISSION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/sched/request.h"
#include "coordinator/sched/scheduler.h"

namespace tessera {

// So long after its last progress a lost group is expected back: requests are taken meanwhile.
inline constexpr absl::Duration kRecoveryGrace = absl::Seconds(30);
inline constexpr absl::Duration kRetryAfterMin = absl::Seconds(1);
inline constexpr absl::Duration kRetryAfterMax = absl::Seconds(60);

// How much may wait, of all models together. One request is always taken when nothing else waits,
// however large it is.
struct WaitingLimits {
  int64_t requests_max = 1024;
  int64_t tokens_max = int64_t{1} << 25;   // prompt + max_tokens x choices
  int64_t bytes_max = int64_t{512} << 20;  // of prompts and parameters
};

struct RequestCost {
  int64_t tokens = 0;  // prompt + max_tokens x choices, the most it can come to
  int64_t bytes = 0;   // of memory that its prompt and parameters hold

  RequestCost& operator+=(const RequestCost& other) {
    tokens += other.tokens;
    bytes += other.bytes;
    return *this;
  }
  RequestCost& operator-=(const RequestCost& other) {
    tokens -= other.tokens;
    bytes -= other.bytes;
    return *this;
  }
};

// Why a request was not taken.
enum class Refusal { kNone, kNoReadyGroup, kDraining, kRequests, kTokens, kBytes };

// The label of tessera_admission_rejections_total.
const char* RefusalName(Refusal refusal);
// For the client: UNAVAILABLE, or RESOURCE_EXHAUSTED naming the bound that was met.
absl::Status RefusalStatus(Refusal refusal, const WaitingLimits& limits);

RequestCost CostOf(const Request& request);

// When refused clients of one model may come back: one after the other as places come free, at the
// latest when everything that waits now has had its turn. One caller at a time.
class ReturnTimes {
 public:
  // For the next client, when `waiting` requests wait; between kRetryAfterMin and kRetryAfterMax,
  // the former when no rate is known yet.
  absl::Duration Next(const ModelStats& model, int64_t waiting, absl::Time now);

 private:
  absl::Time last_ = absl::InfinitePast();
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ENGINE_ADMISSION_H_
