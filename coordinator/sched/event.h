// Everything that can happen to the scheduler. Events are applied in order on the engine thread;
// the simulator posts the same ones.

#ifndef TESSERA_COORDINATOR_SCHED_EVENT_H_
#define TESSERA_COORDINATOR_SCHED_EVENT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/rare.h"
#include "coordinator/sched/request.h"
#include "coordinator/sched/work.h"
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

// The text side found a stop string: the choice ends with the token at `index` (0 = first output
// token) as its last one. Tokens after it are never emitted or billed. Comes at any time after that
// token was told, also after the choice has ended by itself.
struct TextStop {
  RequestId request = 0;
  uint32_t choice = 0;
  uint32_t index = 0;
};

// The text side has read a choice that ended by itself to its end and found no stop string. Only
// for requests with has_stop_strings.
struct TextEnd {
  RequestId request = 0;
  uint32_t choice = 0;
};

// What the scheduler must know of a tenant. One that it was not told of has these defaults.
struct TenantPolicy {
  std::string name;
  double weight = 1;  // share of the capacity among tenants that want it, > 0
  // Share of a group's KV blocks that is this tenant's own: it may hold more while nobody else
  // needs them, and is the first to be preempted then. 1: never over its share.
  double kv_share = 1;  // (0, 1]
};

// All tenants there are from now on; what they have used so far stays counted.
struct SetTenants {
  std::vector<TenantPolicy> tenants;
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
  uint32_t num_ranks = 1;
  absl::Time assigned = absl::InfinitePast();  // when its ranks were told to load
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

using Event = std::variant<NewRequest, Cancel, StepDone, TextStop, TextEnd, MaskReady, GroupReady,
                           GroupLost, Drain, Tick, SetTenants>;

// Log probabilities of one token and of the most likely ones at its place.
struct TokenLogprobs {
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // most likely first
};

// What the scheduler tells the outside about one choice of a request, or about its end.
//
// Life of a choice: updates with tokens, the last of them with `ended`; a choice that TextStop ends
// simply has no more updates, the text side knows. Life of a request: exactly
// one update with `finished`, which is its last. A request of one choice without stop strings has
// both in the same update; otherwise `finished` comes when every choice has ended and, where there
// are stop strings, the text side has answered for each of them. Cancelled, deadline, rejected and
// error finish the whole request at once, without `ended`.
//
// One per sequence and step in steady decode, so it is kept within half a cache line; what is
// rarely there is behind a pointer.
struct RequestUpdate {
  // What comes with some updates only.
  struct Details {
    std::vector<TokenLogprobs> logprobs;  // of `tokens`, when the request wants them
    // Of the prompt positions from first_prompt_index on (the first ever is 1), when wanted; all of
    // them come, each once, before or with the first token.
    uint32_t first_prompt_index = 0;
    std::vector<TokenLogprobs> prompt_logprobs;
    absl::Status error;  // with kError and kRejected: what to tell the client
    // When finished:
    uint32_t prompt_tokens = 0;
    uint32_t output_tokens = 0;  // of all choices, up to their ends
    Work work;                   // so far: rows in flight may add overrun
    uint32_t cached_tokens = 0;  // prompt tokens that a prefix hit saved when it was first admitted
    // When its first row was planned; with the first tokens and when finished.
    absl::Time first_scheduled = absl::InfiniteFuture();
  };

  RequestUpdate() {}  // not an aggregate: making one must not write it twice
  RequestUpdate(RequestId request_in, uint16_t choice_in, uint32_t index, int32_t token_in)
      : request(request_in), token(token_in), first_index(index), choice(choice_in) {}

  // Newly committed tokens of the choice, the stop token that ends it included: one or none.
  absl::Span<const int32_t> tokens() const {
    return absl::MakeConstSpan(&token, token == kNoToken ? 0 : 1);
  }

  static constexpr int32_t kNoToken = -1;

  RequestId request = 0;
  Rare<Details> details;  // there when finished
  int32_t token = kNoToken;
  uint32_t first_index = 0;  // of the token, among the choice's output tokens
  uint16_t choice = 0;
  bool ended = false;
  bool finished = false;
  // When ended: of the choice, kStop or kLength. When finished: of the request; kStop if any choice
  // stopped, else kLength, or what finished it at once.
  FinishReason reason = FinishReason::kStop;
};
static_assert(sizeof(RequestUpdate) == 32);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_EVENT_H_
