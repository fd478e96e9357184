// Updates -> text deltas, see generation.h.

#include "coordinator/api/generation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

// How a request that did not end by itself is told to its client.
absl::Status StatusOf(const RequestUpdate& update) {
  switch (update.reason) {
    case FinishReason::kStop:
    case FinishReason::kLength:
      return absl::OkStatus();
    case FinishReason::kCancelled:
      return absl::CancelledError("the request was cancelled");
    case FinishReason::kDeadline:
      return absl::DeadlineExceededError("the request's deadline has passed");
    case FinishReason::kRejected:
    case FinishReason::kError:
      break;
  }
  if (!update.error.ok()) return update.error;
  return absl::InternalError("the engine ended the request without saying why");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Generation>> Generation::Start(
    Engine& engine, const ServedModel& model, const GenerateParams& params,
    std::shared_ptr<const Request> request, std::function<void()> wake) {
  auto stops = text::StopStrings::Create(params.stop, params.include_stop);
  if (!stops.ok()) return BadParam("stop", std::string(stops.status().message()));
  auto stream = std::make_shared<RequestStream>(std::move(wake));
  std::unique_ptr<Generation> generation(new Generation(
      engine, params, request, stream, text::TextStream(model.tokenizer, *std::move(stops))));
  const absl::Status submitted = engine.Submit(std::move(request), std::move(stream));
  if (!submitted.ok()) {
    generation->finished_ = true;  // nothing to cancel
    return submitted;
  }
  return generation;
}

Generation::~Generation() {
  if (!finished_) engine_.CancelRequest(request_->id, FinishReason::kCancelled);
}

Generation::Delta Generation::Poll() {
  Delta delta;
  for (const RequestUpdate& update : stream_->Take()) {
    if (finished_) break;
    TakeTokens(update.tokens, &delta);
    if (update.finished) Finish(update, &delta);
  }
  return delta;
}

void Generation::TakeTokens(absl::Span<const int32_t> tokens, Delta* delta) {
  for (const int32_t token : tokens) {
    if (stopped_) return;  // computed past the stop string: never emitted
    delta->token_ids.push_back(token);
    ++tokens_;
    // The engine ends the request at a stop token, so this is its last one and its text is not part
    // of the answer.
    const auto& stop_ids = request_->sampling.stop_token_ids;
    const bool is_stop = std::binary_search(stop_ids.begin(), stop_ids.end(), token);
    if (is_stop && !include_stop_) continue;
    TakeText(text_.Push({&token, 1}), delta);
  }
}

void Generation::TakeText(text::TextStream::Output output, Delta* delta) {
  delta->text += output.text;
  if (!output.stop.has_value()) return;
  stopped_ = true;
  stop_reason_ = stops_[output.stop->stop_index];
  const uint32_t index = static_cast<uint32_t>(output.stop->token_index);
  engine_.StopAt(request_->id, /*choice=*/0, index);
  // Tokens that came after the one that completed the stop string (its text became certain late)
  // are not part of the answer. Those of earlier deltas are gone already, these are not.
  const uint32_t beyond = tokens_ - (index + 1);
  const size_t dropped = std::min<size_t>(beyond, delta->token_ids.size());
  delta->token_ids.resize(delta->token_ids.size() - dropped);
  tokens_ -= static_cast<uint32_t>(dropped);
}

void Generation::Finish(const RequestUpdate& update, Delta* delta) {
  finished_ = true;
  delta->status = StatusOf(update);
  delta->reason = update.reason;
  // What was held back becomes certain now; it may even complete a stop string.
  if (delta->status.ok() && !stopped_) TakeText(text_.Finish(), delta);
  // The text decides where a request ends, whichever of the two sides saw its end first.
  if (delta->status.ok() && stopped_) delta->reason = FinishReason::kStop;
  delta->stop_reason = stop_reason_;
  delta->finished = true;
  delta->usage.prompt_tokens = static_cast<uint32_t>(request_->prompt.size());
  delta->usage.completion_tokens = tokens_;
  delta->usage.cached_tokens = update.cached_tokens;
}

}  // namespace tessera::api
