// A request as the scheduler sees it: integers only. Made by the front doors after validation and
// tokenizing, immutable from then on, shared between threads.

#ifndef TESSERA_COORDINATOR_SCHED_REQUEST_H_
#define TESSERA_COORDINATOR_SCHED_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace tessera {

// Names a request for the coordinator's whole life; given by Engine::NextRequestId.
using RequestId = uint64_t;

struct SamplingParams {
  float temperature = 1.0f;             // 0: greedy
  uint32_t top_k = 0;                   // 0: off
  float top_p = 1.0f;                   // 1: off
  uint64_t seed = 0;                    // always set: a request without one gets one, recorded
  uint32_t max_tokens = 0;              // >= 1; prompt + max_tokens <= context
  std::vector<int32_t> stop_token_ids;  // end tokens of the model included, unless ignore_eos
  uint32_t num_choices = 1;             // RESERVED: n
};

struct Request {
  RequestId id = 0;
  std::string public_id;        // "cmpl-..." as the client and the logs see it
  std::string tenant;           // RESERVED: from API keys; "default"
  uint32_t model = 0;           // index in the coordinator's model list
  std::vector<int32_t> prompt;  // token ids, at least one
  SamplingParams sampling;
  absl::Time arrival;
  absl::Time deadline = absl::InfiniteFuture();
  int priority = 0;  // RESERVED
};

// Exactly one per request.
enum class FinishReason {
  kStop,       // end token, stop token or stop string
  kLength,     // max_tokens or the end of the context
  kCancelled,  // the client went away or said so
  kDeadline,
  kRejected,  // refused before any work
  kError,
};

const char* FinishReasonName(FinishReason reason);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_REQUEST_H_
