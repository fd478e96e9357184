// A request as the scheduler sees it: integers only. Made by the front doors after validation and
// tokenizing, immutable from then on, shared between threads.

#ifndef TESSERA_COORDINATOR_SCHED_REQUEST_H_
#define TESSERA_COORDINATOR_SCHED_REQUEST_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/kv/prefix_hash.h"

namespace tessera {

// Names a request for the coordinator's whole life; given by Engine::NextRequestId.
using RequestId = uint64_t;

inline constexpr uint32_t kChoicesMax = 128;     // n and best_of of one request
inline constexpr uint32_t kTopLogprobsMax = 20;  // alternatives per token
inline constexpr int kPriorityMax = 100;         // in [-kPriorityMax, kPriorityMax]

// Neutral values mean off. The front doors have checked every range.
struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy
  uint32_t top_k = 0;        // 0: off
  float top_p = 1.0f;        // 1: off
  float min_p = 0.0f;        // 0: off
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  float repetition_penalty = 1.0f;                    // 1: off
  std::vector<std::pair<int32_t, float>> logit_bias;  // by token id, each once
  std::vector<int32_t> allowed_token_ids;             // empty: all
  std::vector<int32_t> banned_token_ids;
  uint64_t seed = 0;                    // always set: a request without one gets one, recorded
  uint32_t max_tokens = 0;              // >= 1; prompt + max_tokens <= context
  uint32_t min_tokens = 0;              // until then no stop token is drawn
  std::vector<int32_t> stop_token_ids;  // end tokens of the model included, unless ignore_eos
  // The text side looks for stop strings: it answers every end of a choice with TextEnd or
  // TextStop, and the request's terminal update waits for that.
  bool has_stop_strings = false;
  uint32_t num_choices = 1;      // sequences that share the prompt, 1 .. kChoicesMax
  bool logprobs = false;         // of sampled tokens
  uint32_t top_logprobs = 0;     // alternatives, with `logprobs`
  uint32_t prompt_logprobs = 0;  // 0: off, else 1 + alternatives per prompt token

  // Whether ranks must know the tokens themselves, not only their keys and values.
  bool needs_history() const {
    return presence_penalty != 0 || frequency_penalty != 0 || repetition_penalty != 1 ||
           prompt_logprobs > 0;
  }
};

// Whose cached blocks a request may use. Keys are drawn by the server; a client never sees or
// chooses one. Two requests share a block only when they hash it under the same key.
struct CacheDomain {
  using Key = PrefixKey;
  bool enabled = true;
  Key key = {};
  // The first `num_shared_tokens` tokens of the prompt (a system prompt) are hashed under
  // `shared_key` instead, as far as whole blocks go. Opt-in per tenant.
  Key shared_key = {};
  uint32_t num_shared_tokens = 0;
};

struct Request {
  RequestId id = 0;
  std::string public_id;    // "cmpl-..." as the client and the logs see it
  std::string traceparent;  // W3C trace context, for logs and traces only
  std::string tenant = "default";
  uint32_t model = 0;           // index in the coordinator's model list
  std::vector<int32_t> prompt;  // token ids, at least one
  SamplingParams sampling;
  CacheDomain cache;
  absl::Time arrival;
  absl::Time deadline = absl::InfiniteFuture();
  int priority = 0;  // higher runs earlier; waiting raises it (SchedulerOptions::priority_ageing)
};

// Exactly one per request.
enum class FinishReason : uint8_t {
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
