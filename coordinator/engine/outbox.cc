// Streams and per-request metrics; see outbox.h. Each figure is counted in one place: tokens as
// they are handed out, everything about a whole request when it ends.

#include "coordinator/engine/outbox.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tessera {
namespace {

// The admission_rejections_total label for a refusal by the scheduler.
const char* RejectionReason(const absl::Status& error) {
  switch (error.code()) {
    case absl::StatusCode::kResourceExhausted:
      return "queue_full";
    case absl::StatusCode::kUnavailable:
      return "draining";
    default:
      return "invalid";
  }
}

}  // namespace

void Outbox::Open(std::shared_ptr<const Request> request, std::shared_ptr<RequestStream> stream) {
  const RequestId id = request->id;
  OpenRequest open;
  open.request = std::move(request);
  open.stream = std::move(stream);
  TESSERA_CHECK(open_.try_emplace(id, std::move(open)).second)
      << "request id " << id << " is used twice";
}

void Outbox::CountTokens(const RequestUpdate& update, absl::Time now, OpenRequest& open) {
  ModelMetrics& metrics = metrics_.model(open.request->model);
  if (!open.scheduled && update.first_scheduled != absl::InfiniteFuture()) {
    open.scheduled = true;
    metrics.queue_time->Observe(
        absl::ToDoubleSeconds(update.first_scheduled - open.request->arrival));
  }
  const size_t count = update.tokens.size();
  if (count == 0) return;
  TESSERA_CHECK(update.first_index == open.output_tokens)
      << "request " << update.request << " gets token " << update.first_index << " after "
      << open.output_tokens << " tokens";
  metrics.generation_tokens->Increment(static_cast<double>(count));
  size_t intervals = count;
  if (open.output_tokens == 0) {
    metrics.prompt_tokens->Increment(static_cast<double>(open.request->prompt.size()));
    metrics.time_to_first_token->Observe(absl::ToDoubleSeconds(now - open.request->arrival));
    open.last_token = now;
    --intervals;
  }
  // Tokens that come together share the time since the last ones.
  const double since = absl::ToDoubleSeconds(now - open.last_token);
  for (size_t i = 0; i < intervals; ++i) {
    metrics.inter_token_latency->Observe(since / static_cast<double>(intervals));
  }
  open.output_tokens += static_cast<uint32_t>(count);
  open.last_token = now;
}

void Outbox::CountEnd(const RequestUpdate& update, absl::Time now, const OpenRequest& open) {
  const uint32_t model = open.request->model;
  metrics_.CountFinished(model, FinishReasonName(update.reason));
  if (update.reason == FinishReason::kRejected) {
    metrics_.CountRejected(model, RejectionReason(update.error));
    return;
  }
  ModelMetrics& metrics = metrics_.model(model);
  metrics.request_latency->Observe(absl::ToDoubleSeconds(now - open.request->arrival));
  metrics.prompt_length->Observe(static_cast<double>(open.request->prompt.size()));
  metrics.generation_length->Observe(static_cast<double>(update.output_tokens));
}

int64_t Outbox::Publish(std::vector<RequestUpdate> updates, absl::Time now) {
  int64_t ended = 0;
  for (RequestUpdate& update : updates) {
    const auto found = open_.find(update.request);
    TESSERA_CHECK(found != open_.end()) << "request " << update.request << " is not open";
    OpenRequest& open = found->second;
    CountTokens(update, now, open);
    if (!update.finished) {
      open.stream->Push(std::move(update));
      continue;
    }
    CountEnd(update, now, open);
    const std::shared_ptr<RequestStream> stream = std::move(open.stream);
    open_.erase(found);
    ++ended;
    stream->Push(std::move(update));
  }
  return ended;
}

int64_t Outbox::CloseAll(const absl::Status& status, absl::Time now) {
  std::vector<RequestUpdate> updates;
  for (const auto& [id, open] : open_) {
    RequestUpdate& update = updates.emplace_back();
    update.request = id;
    update.first_index = open.output_tokens;
    update.finished = true;
    update.reason = FinishReason::kError;
    update.error = status;
    update.prompt_tokens = static_cast<uint32_t>(open.request->prompt.size());
    update.output_tokens = open.output_tokens;
  }
  std::sort(updates.begin(), updates.end(),
            [](const RequestUpdate& a, const RequestUpdate& b) { return a.request < b.request; });
  return Publish(std::move(updates), now);
}

}  // namespace tessera
