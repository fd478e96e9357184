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

absl::Duration RetryAfter(const ModelStats& model) {
  double seconds = 0;
  // Prompts that wait at the rate of computing, answers at the rate at which answers end lately.
  if (model.tokens_per_second > 0) {
    seconds = static_cast<double>(model.waiting_tokens) / model.tokens_per_second;
  }
  if (model.choices_per_second > 0) {
    seconds = std::max(seconds, static_cast<double>(model.waiting) / model.choices_per_second);
  }
  return std::clamp(absl::Seconds(seconds), kRetryAfterMin, kRetryAfterMax);
}

}  // namespace tessera
