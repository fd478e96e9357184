// Updates -> text deltas, see generation.h.

#include "coordinator/api/generation.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
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
  if (!update.details->error.ok()) return update.details->error;
  return absl::InternalError("the engine ended the request without saying why");
}

template <typename T>
void MoveOver(std::vector<T>* from, size_t count, std::vector<T>* to) {
  count = std::min(count, from->size());  // columns that were not asked for stay empty
  const auto end = from->begin() + static_cast<std::ptrdiff_t>(count);
  to->insert(to->end(), std::make_move_iterator(from->begin()), std::make_move_iterator(end));
  from->erase(from->begin(), end);
}

// What is shown of a choice when only the prompt is wanted: that it has ended.
void HideOutput(ChoiceDelta* delta) {
  delta->text.clear();
  delta->token_ids.clear();
  delta->logprobs.clear();
  delta->text_offsets.clear();
  delta->reason = FinishReason::kLength;
  delta->stop_reason.clear();
}

}  // namespace

void ChoiceDelta::Append(ChoiceDelta later) {
  choice = later.choice;
  text += later.text;
  MoveOver(&later.token_ids, later.token_ids.size(), &token_ids);
  MoveOver(&later.logprobs, later.logprobs.size(), &logprobs);
  MoveOver(&later.text_offsets, later.text_offsets.size(), &text_offsets);
  if (!later.ended) return;
  ended = true;
  reason = later.reason;
  stop_reason = std::move(later.stop_reason);
}

absl::StatusOr<std::unique_ptr<Generation>> Generation::Start(
    Engine& engine, std::shared_ptr<LostModels> lost_models, const ServedModel& model,
    const GenerateParams& params, std::shared_ptr<const Request> request, TenantLimits::Lease lease,
    std::function<void()> wake) {
  auto stops = text::StopStrings::Create(params.stop, params.include_stop);
  if (!stops.ok()) return BadParam("stop", std::string(stops.status().message()));
  std::vector<Choice> choices;
  for (uint32_t index = 0; index < request->sampling.num_choices; ++index) {
    choices.emplace_back(text::TextStream(model.tokenizer, *stops, /*skip_special=*/true,
                                          request->sampling.min_tokens));
    choices.back().delta.choice = index;
  }
  auto loss = std::make_unique<LossWatch>(std::move(lost_models), model.index, wake);
  auto stream = std::make_shared<RequestStream>(std::move(wake));
  std::unique_ptr<Generation> generation(new Generation(
      engine, params, request, std::move(lease), stream, std::move(loss), std::move(choices)));
  // A loss from here on is heard.
  absl::Status submitted = generation->loss_->Check();
  if (submitted.ok()) submitted = engine.Submit(std::move(request), std::move(stream));
  if (!submitted.ok()) {
    generation->finished_ = true;  // nothing to cancel
    generation->lease_.Release(0);
    return submitted;
  }
  return generation;
}

Generation::~Generation() {
  if (finished_) return;
  engine_.CancelRequest(request_->id, FinishReason::kCancelled);
  lease_.Release(ChargedTokens(EmittedTokens()));
}

int64_t Generation::ChargedTokens(uint32_t output_tokens) const {
  return static_cast<int64_t>(request_->prompt.size()) + (prompt_only_ ? 0 : output_tokens);
}

uint32_t Generation::EmittedTokens() const {
  uint32_t tokens = 0;
  for (const Choice& choice : choices_) tokens += choice.emitted;
  return tokens;
}

Generation::Delta Generation::Poll() {
  Delta delta;
  for (RequestUpdate& update : stream_->Take()) {
    if (finished_) break;
    Take(std::move(update), &delta);
  }
  if (!finished_) {
    absl::Status lost = loss_->Check();
    if (!lost.ok()) Abandon(std::move(lost), &delta);
  }
  const bool all_ended = std::all_of(choices_.begin(), choices_.end(),
                                     [](const Choice& choice) { return choice.ended; });
  for (Choice& choice : choices_) {
    if (choice.delta.empty()) continue;
    ChoiceDelta given = std::exchange(choice.delta, ChoiceDelta());
    choice.delta.choice = given.choice;
    if (prompt_only_) HideOutput(&given);
    if (!delta.status.ok()) given.ended = false;  // the failure is its end
    // The last end waits for the request's, so that usage comes with it.
    if (given.ended && all_ended && !finished_) {
      choice.delta.ended = std::exchange(given.ended, false);
      choice.delta.reason = given.reason;
      choice.delta.stop_reason = std::move(given.stop_reason);
    }
    if (!given.empty()) delta.choices.push_back(std::move(given));
  }
  return delta;
}

void Generation::Take(RequestUpdate update, Delta* delta) {
  if (update.details.has_value() && !update.details->prompt_logprobs.empty()) {
    RequestUpdate::Details& details = *update.details;
    TESSERA_CHECK(details.first_prompt_index == 1 + prompt_scores_)
        << "request " << update.request << ": prompt log probabilities from "
        << details.first_prompt_index << " on after " << prompt_scores_;
    prompt_scores_ += static_cast<uint32_t>(details.prompt_logprobs.size());
    MoveOver(&details.prompt_logprobs, details.prompt_logprobs.size(), &delta->prompt_logprobs);
  }
  if (!update.tokens().empty() || update.ended) {
    TESSERA_CHECK(update.choice < choices_.size()) << "there is no choice " << update.choice;
    Choice& choice = choices_[update.choice];
    TakeTokens(update, choice);
    if (update.ended) EndChoice(update, choice);
  }
  if (update.finished) Finish(update, delta);
}

void Generation::TakeTokens(RequestUpdate& update, Choice& choice) {
  const SamplingParams& sampling = request_->sampling;
  const size_t scored = update.details.has_value() ? update.details->logprobs.size() : 0;
  TESSERA_CHECK(!sampling.logprobs || scored == update.tokens().size())
      << scored << " log probabilities of " << update.tokens().size() << " tokens";
  for (size_t i = 0; i < update.tokens().size(); ++i) {
    if (choice.ended) return;  // computed past a stop string: never emitted
    const int32_t token = update.tokens()[i];
    choice.held.token_ids.push_back(token);
    if (sampling.logprobs) {
      choice.held.logprobs.push_back(std::move(update.details->logprobs[i]));
      choice.held.text_offsets.push_back(static_cast<uint32_t>(choice.text.characters()));
    }
    // The engine ends the choice at a stop token, so this is its last one and its text is not part
    // of the answer.
    const bool is_stop =
        std::binary_search(sampling.stop_token_ids.begin(), sampling.stop_token_ids.end(), token);
    if (!is_stop || include_stop_) TakeText(choice.text.Push({&token, 1}), choice);
  }
  if (!choice.ended) Emit(choice, choice.text.certain_tokens());
}

void Generation::TakeText(text::TextStream::Output output, Choice& choice) {
  choice.delta.text += output.text;
  if (!output.stop.has_value()) return;
  const uint32_t index = static_cast<uint32_t>(output.stop->token_index);
  engine_.StopAt(request_->id, choice.delta.choice, index);
  // Tokens that came after the one that completed the stop string (its text became certain late)
  // are not part of the answer.
  Emit(choice, index + 1);
  choice.held = ChoiceDelta();
  choice.ended = true;
  choice.delta.ended = true;
  choice.delta.reason = FinishReason::kStop;
  choice.delta.stop_reason = stops_[output.stop->stop_index];
}

// Gives out what is held of the choice's first `certain` tokens.
void Generation::Emit(Choice& choice, size_t certain) {
  TESSERA_CHECK(certain >= choice.emitted)
      << "token " << choice.emitted << " went out and is not part of the answer";
  const size_t count = std::min(certain - choice.emitted, choice.held.token_ids.size());
  MoveOver(&choice.held.token_ids, count, &choice.delta.token_ids);
  MoveOver(&choice.held.logprobs, count, &choice.delta.logprobs);
  MoveOver(&choice.held.text_offsets, count, &choice.delta.text_offsets);
  choice.emitted += static_cast<uint32_t>(count);
}

void Generation::EndChoice(const RequestUpdate& update, Choice& choice) {
  // What was held back becomes certain now; it may even complete a stop string. The text decides
  // where a choice ends, whichever of the two sides saw its end first.
  if (!choice.ended) TakeText(choice.text.Finish(), choice);
  if (choice.ended) return;
  Emit(choice, choice.emitted + choice.held.token_ids.size());
  choice.ended = true;
  choice.delta.ended = true;
  choice.delta.reason = update.reason;
  if (request_->sampling.has_stop_strings) engine_.EndText(request_->id, choice.delta.choice);
}

void Generation::Finish(const RequestUpdate& update, Delta* delta) {
  finished_ = true;
  delta->finished = true;
  delta->status = StatusOf(update);
  const RequestUpdate::Details& details = *update.details;
  lease_.Release(ChargedTokens(details.output_tokens));
  if (!delta->status.ok()) return;
  // Where a request ends is a function of its tokens: what is billed is what was sent.
  TESSERA_CHECK(details.output_tokens == EmittedTokens())
      << "request " << request_->public_id << " is billed " << details.output_tokens
      << " tokens, sent were " << EmittedTokens();
  delta->usage.prompt_tokens = static_cast<uint32_t>(request_->prompt.size());
  delta->usage.completion_tokens = prompt_only_ ? 0 : details.output_tokens;
  delta->usage.cached_tokens = details.cached_tokens;
  delta->usage.work = details.work;
}

void Generation::Abandon(absl::Status reason, Delta* delta) {
  finished_ = true;
  delta->finished = true;
  delta->status = std::move(reason);
  engine_.CancelRequest(request_->id, FinishReason::kError);
  lease_.Release(ChargedTokens(EmittedTokens()));
}

}  // namespace tessera::api
