// What a client may ask of a generation: parameters as they came, their ranges, and the Request
// that they become. Both front doors end here, so a limit is stated once. Any thread.

#ifndef TESSERA_COORDINATOR_API_VALIDATE_H_
#define TESSERA_COORDINATOR_API_VALIDATE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/prompt.h"
#include "coordinator/api/served_model.h"
#include "coordinator/sched/request.h"
#include "coordinator/tenants/caller.h"

namespace tessera::api {

inline constexpr double kTemperatureMax = 2.0;
inline constexpr double kPenaltyMax = 2.0;             // presence and frequency, of either sign
inline constexpr double kRepetitionPenaltyMax = 10.0;  // above 0
inline constexpr size_t kStopTokensMax = 64;           // stop_token_ids of one request
inline constexpr size_t kLogitBiasMax = 300;           // tokens
inline constexpr double kLogitBiasValueMax = 100.0;    // of either sign
inline constexpr size_t kTokenListMax = 1024;          // allowed_token_ids, banned_token_ids
inline constexpr size_t kBadWordsMax = 256;
inline constexpr size_t kBadWordBytesMax = 256;
// Log probabilities that one request may make: (prompt + max_tokens x choices), each with its
// alternatives.
inline constexpr int64_t kScoredValuesMax = 8 << 20;

// Unset: the model's generation_config.json decides, else the API's default.
struct GenerateParams {
  std::string traceparent;  // of this server's part of the caller's trace
  std::optional<double> temperature;
  std::optional<int64_t> top_k;  // -1 and 0: off
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::optional<double> repetition_penalty;
  std::vector<std::pair<int32_t, double>> logit_bias;
  std::vector<int32_t> allowed_token_ids;  // empty: all
  std::vector<int32_t> banned_token_ids;
  std::vector<std::string> bad_words;  // each one token of the model
  std::optional<uint64_t> seed;
  std::optional<int64_t> n;
  std::optional<int64_t> best_of;  // unset: n
  std::optional<int64_t> min_tokens;
  std::optional<int64_t> max_tokens;
  const char* max_tokens_name = "max_tokens";  // as the client called it
  // Only the prompt is wanted (echo with max_tokens 0). The engine draws one token all the same,
  // which nobody sees or pays for.
  bool prompt_only = false;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop = false;
  std::optional<int64_t> top_logprobs;  // set: log probabilities with so many alternatives
  const char* top_logprobs_name = "top_logprobs";
  std::optional<int64_t> prompt_logprobs;  // likewise of the prompt
  bool score_prompt = false;               // the prompt's with top_logprobs alternatives too (echo)
  std::optional<int64_t> priority;
  absl::Time deadline = absl::InfiniteFuture();

  int64_t choices() const { return best_of.value_or(n.value_or(1)); }  // that are generated
  int64_t answers() const { return n.value_or(1); }                    // that are returned
};

// INVALID_ARGUMENT naming the first parameter that is out of its range.
absl::Status ValidateParams(const GenerateParams& params, const ServedModel& model,
                            const Caller& caller);

struct RequestIdentity {
  RequestId id = 0;
  std::string public_id;
  absl::Time arrival;
  uint64_t drawn_seed = 0;  // where the client sent none
};

// Of parameters that ValidateParams has passed. `prompt` is already known to fit (see prompt.h).
// max_tokens defaults to the model's max_new_tokens as far as the context leaves room, or to all of
// that; more than what it leaves is refused with all numbers.
absl::StatusOr<std::shared_ptr<const Request>> MakeRequest(const ServedModel& model,
                                                           const GenerateParams& params,
                                                           const Caller& caller, Prompt prompt,
                                                           RequestIdentity identity);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_VALIDATE_H_
