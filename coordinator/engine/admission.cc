// See admission.h.

#include "coordinator/engine/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

absl::Status QueueFull(int64_t max, const char* what) {
  return absl::ResourceExhaustedError(
      absl::StrCat("the queue is full (", max, " ", what, " may wait); retry later"));
}

// Until a place comes free: when an answer ends at the rate of the last ones, or at the latest when
// the first of those that run reaches its limit; but not before a prompt has been computed.
double PlaceSeconds(const ModelStats& model) {
  double seconds = 0;
  if (model.tokens_per_second > 0) {
    seconds = static_cast<double>(model.remaining_min * model.running) / model.tokens_per_second;
  }
  if (model.choices_per_second > 0) seconds = 1 / model.choices_per_second;
  if (model.tokens_per_second > 0 && model.waiting > 0) {
    const double prompt =
        static_cast<double>(model.waiting_tokens) / static_cast<double>(model.waiting);
    seconds = std::max(seconds, prompt / model.tokens_per_second);
  }
  return seconds;
}

}  // namespace

const char* RefusalName(Refusal refusal) {
  switch (refusal) {
    case Refusal::kNone:
      return "none";
    case Refusal::kNoReadyGroup:
      return "no_ready_group";
    case Refusal::kDraining:
      return "draining";
    case Refusal::kRequests:
      return "queue_requests";
    case Refusal::kTokens:
      return "queue_tokens";
    case Refusal::kBytes:
      return "queue_bytes";
  }
  return "none";
}

absl::Status RefusalStatus(Refusal refusal, const WaitingLimits& limits) {
  switch (refusal) {
    case Refusal::kNone:
      break;
    case Refusal::kNoReadyGroup:
      return absl::UnavailableError(
          "no group of this model is ready; its workers are still loading or recovering, retry "
          "later");
    case Refusal::kDraining:
      return absl::UnavailableError("the server is shutting down and takes no new requests");
    case Refusal::kRequests:
      return QueueFull(limits.requests_max, "requests");
    case Refusal::kTokens:
      return QueueFull(limits.tokens_max, "tokens of prompts and max_tokens");
    case Refusal::kBytes:
      return QueueFull(limits.bytes_max, "bytes of prompts and parameters");
  }
  return absl::OkStatus();
}

RequestCost CostOf(const Request& request) {
  const SamplingParams& sampling = request.sampling;
  const auto bytes_of = [](const auto& vector) {
    return static_cast<int64_t>(vector.capacity() * sizeof(vector[0]));
  };
  RequestCost cost;
  cost.tokens = static_cast<int64_t>(request.prompt.size()) +
                static_cast<int64_t>(sampling.max_tokens) * sampling.num_choices;
  cost.bytes = static_cast<int64_t>(sizeof(Request)) + bytes_of(request.prompt) +
               bytes_of(request.public_id) + bytes_of(request.tenant) +
               bytes_of(sampling.logit_bias) + bytes_of(sampling.allowed_token_ids) +
               bytes_of(sampling.banned_token_ids) + bytes_of(sampling.stop_token_ids);
  return cost;
}

absl::Duration ReturnTimes::Next(const ModelStats& model, int64_t waiting, absl::Time now) {
  const absl::Duration interval = std::min(absl::Seconds(PlaceSeconds(model)), kRetryAfterMax);
  const absl::Time next = std::max(last_, now) + interval;
  last_ = std::min(next, now + interval * (waiting + 1));
  return std::clamp(last_ - now, kRetryAfterMin, kRetryAfterMax);
}

}  // namespace tessera
