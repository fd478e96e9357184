// Comparison of updates with the expected answers; see request_log.h.

#include "tests/coordinator/sched/request_log.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tessera::testing {

LoggedRequest& RequestLog::Add(std::shared_ptr<const Request> request, int64_t context_max) {
  LoggedRequest& logged = requests_[request->id];
  logged.expected = ExpectedAnswer(*request, context_max);
  logged.request = std::move(request);
  return logged;
}

void RequestLog::Violate(RequestId id, const std::string& what) {
  violations_.push_back(absl::StrCat("request ", id, ": ", what));
}

void RequestLog::Take(const RequestUpdate& update, absl::Time now) {
  const auto found = requests_.find(update.request);
  if (found == requests_.end()) return Violate(update.request, "was never made");
  LoggedRequest& logged = found->second;
  if (logged.end.has_value()) return Violate(update.request, "an update after the terminal one");
  if (update.tokens.empty() && !update.finished)
    Violate(update.request, "an update that says nothing");
  if (!update.tokens.empty() && update.first_index != logged.emitted.size()) {
    Violate(update.request,
            absl::StrCat("token ", update.first_index, " after ", logged.emitted.size()));
  }
  for (int32_t token : update.tokens) {
    const size_t index = logged.emitted.size();
    if (index >= logged.expected.tokens.size() || logged.expected.tokens[index] != token) {
      Violate(update.request, absl::StrCat("token ", index, " differs from the undisturbed run"));
    }
    // An update that ends the request by itself may have been under way when the stop was sent.
    if (logged.stop_index.has_value() && index > *logged.stop_index && !update.finished) {
      Violate(update.request, absl::StrCat("token ", index, " is past the stop"));
    }
    logged.emitted.push_back(token);
  }
  if (!update.finished) return;
  CheckEnd(logged, update, now);
  logged.end = update;
}

void RequestLog::CheckEnd(const LoggedRequest& logged, const RequestUpdate& update,
                          absl::Time now) {
  const RequestId id = update.request;
  const size_t emitted = logged.emitted.size();
  const bool complete = logged.emitted == logged.expected.tokens;
  size_t expected_output = emitted;
  const bool ended_by_itself = complete && update.reason == logged.expected.reason;
  switch (update.reason) {
    case FinishReason::kStop:
      if (logged.stop_index.has_value() && update.tokens.empty()) {
        expected_output = *logged.stop_index + 1;
        if (emitted < expected_output) Violate(id, "stopped before its stop");
      } else if (!ended_by_itself) {
        Violate(id, "stopped without a stop");
      }
      break;
    case FinishReason::kLength:
      if (!ended_by_itself) Violate(id, "is not at its length");
      break;
    case FinishReason::kCancelled:
      if (!logged.cancelled) Violate(id, "was not cancelled");
      break;
    case FinishReason::kDeadline:
      if (now < logged.request->deadline) Violate(id, "has time left");
      break;
    case FinishReason::kRejected:
      if (emitted > 0 || update.error.ok() || update.first_scheduled != absl::InfiniteFuture() ||
          std::count(logged.refusals.begin(), logged.refusals.end(), update.error.code()) == 0) {
        Violate(id, absl::StrCat("refused without cause: ", update.error.ToString()));
      }
      break;
    case FinishReason::kError:
      if (!ended_by_itself || update.error.code() != absl::StatusCode::kInternal) {
        Violate(id, absl::StrCat("failed without cause: ", update.error.ToString()));
      }
      break;
  }
  if (update.output_tokens != expected_output) {
    Violate(id,
            absl::StrCat("counts ", update.output_tokens, " output tokens, not ", expected_output));
  }
  if (update.prompt_tokens != logged.request->prompt.size()) Violate(id, "counts its prompt wrong");
}

void RequestLog::CheckDeadlines(absl::Time now) {
  for (const auto& [id, logged] : requests_) {
    if (!logged.end.has_value() && logged.request->deadline <= now)
      Violate(id, "lives past its deadline");
  }
}

std::vector<RequestId> RequestLog::Open() const {
  std::vector<RequestId> open;
  for (const auto& [id, logged] : requests_) {
    if (!logged.end.has_value()) open.push_back(id);
  }
  return open;
}

}  // namespace tessera::testing
