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
      return "queue_requests";
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
  open.tenant = &metrics_.tenant(open.request->tenant);
  open.choices.resize(open.request->sampling.num_choices);
  waiting_ages_.Begin(open.request->model, open.request->arrival);
  TESSERA_CHECK(open_.try_emplace(id, std::move(open)).second)
      << "request id " << id << " is used twice";
}

uint32_t Outbox::OpenRequest::output_tokens() const {
  uint32_t sum = 0;
  for (const Choice& choice : choices) sum += choice.output_tokens;
  return sum;
}

// The choices begin together, with the prompt's last row.
RequestFacts Outbox::OpenRequest::FactsAtEnd(const RequestUpdate& update, absl::Time now) const {
  const auto since_arrival = [this](absl::Time time) {
    return absl::ToDoubleSeconds(time - request->arrival);
  };
  RequestFacts facts;
  facts.finish_reason = FinishReasonName(update.reason);
  facts.ended = since_arrival(now);
  facts.prompt_tokens = static_cast<uint32_t>(request->prompt.size());
  facts.cached_tokens = update.details->cached_tokens;
  facts.output_tokens = update.details->output_tokens;
  facts.num_choices = static_cast<uint32_t>(choices.size());
  facts.max_tokens = static_cast<uint32_t>(request->sampling.max_tokens);
  if (update.details->first_scheduled != absl::InfiniteFuture()) {
    facts.first_scheduled = since_arrival(update.details->first_scheduled);
  }
  if (!has_output) return facts;
  facts.first_token = since_arrival(first_token);
  for (const Choice& choice : choices) {
    facts.longest_output = std::max(facts.longest_output, choice.output_tokens);
    if (choice.output_tokens == 0) continue;
    const double last = since_arrival(choice.last_token);
    facts.last_token = std::max(facts.last_token, last);
    if (choice.output_tokens < 2) continue;
    facts.time_per_token =
        std::max(facts.time_per_token, (last - facts.first_token) / (choice.output_tokens - 1));
  }
  return facts;
}

void Outbox::CountBegin(const RequestUpdate& update, OpenRequest& open, TurnOutcome& outcome) {
  if (!open.waiting) return;
  const absl::Time first_scheduled =
      update.details.has_value() ? update.details->first_scheduled : absl::InfiniteFuture();
  const bool scheduled = first_scheduled != absl::InfiniteFuture();
  if (!scheduled && !update.finished) return;
  open.waiting = false;
  waiting_ages_.End(open.request->model, open.request->arrival);
  outcome.begun += CostOf(*open.request);
  if (!scheduled) return;
  metrics_.model(open.request->model)
      .queue_time->Observe(absl::ToDoubleSeconds(first_scheduled - open.request->arrival));
}

void Outbox::CountTokens(const RequestUpdate& update, absl::Time now, OpenRequest& open) {
  TESSERA_CHECK(update.choice < open.choices.size())
      << "request " << update.request << " has no choice " << update.choice;
  Choice& choice = open.choices[update.choice];
  const bool is_empty = update.tokens().empty();
  TESSERA_CHECK(!choice.ended || (is_empty && !update.ended))
      << "choice " << update.choice << " of request " << update.request << " has ended before";
  choice.ended |= update.ended;
  if (is_empty) return;
  TESSERA_CHECK(update.first_index == choice.output_tokens)
      << "choice " << update.choice << " of request " << update.request << " gets token "
      << update.first_index << " after " << choice.output_tokens << " tokens";
  ModelMetrics& metrics = metrics_.model(open.request->model);
  metrics.generation_tokens->Increment();
  open.tenant->generation_tokens->Increment();
  if (!open.has_output) {
    open.has_output = true;
    open.first_token = now;
    const double prompt = static_cast<double>(open.request->prompt.size());
    metrics.prompt_tokens->Increment(prompt);
    open.tenant->prompt_tokens->Increment(prompt);
    metrics.time_to_first_token->Observe(absl::ToDoubleSeconds(now - open.request->arrival));
  }
  if (choice.output_tokens > 0) {
    metrics.inter_token_latency->Observe(absl::ToDoubleSeconds(now - choice.last_token));
  }
  ++choice.output_tokens;
  choice.last_token = now;
}

void Outbox::CountEnd(const RequestUpdate& update, absl::Time now, const OpenRequest& open) {
  const uint32_t model = open.request->model;
  metrics_.CountFinished(model, FinishReasonName(update.reason));
  metrics_.CountTenantFinished(open.request->tenant, FinishReasonName(update.reason));
  ledger_.OnFinished(*open.request, update, now);
  if (update.reason == FinishReason::kRejected) {
    metrics_.CountRejected(model, RejectionReason(update.details->error));
    return;
  }
  metrics_.ObserveRequest(model, open.FactsAtEnd(update, now));
}

TurnOutcome Outbox::Publish(absl::Span<RequestUpdate> updates, absl::Time now) {
  TurnOutcome outcome;
  for (RequestUpdate& update : updates) {
    const auto found = open_.find(update.request);
    TESSERA_CHECK(found != open_.end()) << "request " << update.request << " is not open";
    OpenRequest& open = found->second;
    CountBegin(update, open, outcome);
    CountTokens(update, now, open);
    if (!update.finished) {
      open.stream->Push(std::move(update));
      continue;
    }
    CountEnd(update, now, open);
    const std::shared_ptr<RequestStream> stream = std::move(open.stream);
    open_.erase(found);
    ++outcome.ended;
    stream->Push(std::move(update));
  }
  waiting_ages_.Tell(now);
  return outcome;
}

std::vector<RequestId> Outbox::open() const {
  std::vector<RequestId> ids;
  for (const auto& [id, open] : open_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

TurnOutcome Outbox::CloseAll(const absl::Status& status, absl::Time now) {
  std::vector<RequestUpdate> updates;
  for (const RequestId id : this->open()) {
    const OpenRequest& open = open_.at(id);
    RequestUpdate& update = updates.emplace_back();
    update.request = id;
    update.finished = true;
    update.reason = FinishReason::kError;
    update.details.Make().error = status;
    update.details.Make().prompt_tokens = static_cast<uint32_t>(open.request->prompt.size());
    update.details.Make().output_tokens = open.output_tokens();
  }
  return Publish(absl::MakeSpan(updates), now);
}

}  // namespace tessera
