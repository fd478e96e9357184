// Everything that can happen to the scheduler. Events are applied in order on the engine thread;
// the simulator posts the same ones.

#ifndef TESSERA_COORDINATOR_SCHED_EVENT_H_
#define TESSERA_COORDINATOR_SCHED_EVENT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/sched/request.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

struct NewRequest {
  std::shared_ptr<const Request> request;
};

struct Cancel {
  RequestId request = 0;
  FinishReason reason = FinishReason::kCancelled;
};

// All ranks of the group have answered a plan. `result` is rank 0's; `rank_results` are all of them
// for telemetry and the ledger, in rank order.
struct StepDone {
  uint32_t group = 0;
  std::vector<cluster::v1::StepResult> rank_results;
};

// The text side found a stop string: the request ends with the token at `index` (0 = first output
// token) as its last one. Tokens after it are never emitted or billed.
struct TextStop {
  RequestId request = 0;
  uint32_t choice = 0;
  uint32_t index = 0;
};

// RESERVED: a grammar mask is ready. Applying one is a broken invariant until constrained output
// lands.
struct MaskReady {
  RequestId request = 0;
};

// A group can take plans: its ranks hold the weights and an empty KV cache.
struct GroupReady {
  uint32_t group = 0;
  uint64_t epoch = 0;
  uint32_t model = 0;
  std::vector<uint32_t> num_blocks;  // per KvGroup
};

// A group's ranks are gone; what was running there continues elsewhere or waits for the next epoch.
struct GroupLost {
  uint32_t group = 0;
  uint64_t epoch = 0;
  absl::Status reason;
};

// No admission from now on; what is running finishes.
struct Drain {};

// Time has passed (deadlines, heartbeat plans).
struct Tick {};

using Event = std::variant<NewRequest, Cancel, StepDone, TextStop, MaskReady, GroupReady, GroupLost,
                           Drain, Tick>;

// What the scheduler tells the outside about one request.
struct RequestUpdate {
  RequestId request = 0;
  uint32_t choice = 0;
  uint32_t first_index = 0;  // of tokens, among the request's output tokens
  // Newly committed, the stop token that ends the request included; may be empty. Inlined: one
  // token per step is the steady state and must not touch the heap.
  absl::InlinedVector<int32_t, 4> tokens;
  bool finished = false;
  FinishReason reason = FinishReason::kStop;  // when finished
  absl::Status error;                         // with kError and kRejected: what to tell the client
  uint32_t prompt_tokens = 0;                 // when finished
  uint32_t output_tokens = 0;
  uint32_t cached_tokens = 0;
  absl::Time first_scheduled = absl::InfiniteFuture();  // when its first row was planned
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_EVENT_H_
