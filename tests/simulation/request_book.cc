// Comparison of updates with the undisturbed run; see request_book.h.

#include "tests/simulation/request_book.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/sched/details_of.h"

namespace tessera::simulation {

using testing::DetailsOf;
namespace {

bool SameScore(const TokenLogprobs& a, const TokenLogprobs& b) {
  return a.logprob == b.logprob && a.top == b.top;
}

}  // namespace

void RequestBook::Add(std::shared_ptr<const Request> request, StopStrings stops,
                      int64_t context_max) {
  BookedRequest& booked = requests_[request->id];
  booked.reference = ComputeReference(*request, stops, context_max);
  booked.stops = std::move(stops);
  booked.choices.resize(request->sampling.num_choices);
  by_public_id_[request->public_id] = request->id;
  booked.request = std::move(request);
  ++num_open_;
}

BookedRequest* RequestBook::Find(RequestId id) {
  const auto found = requests_.find(id);
  return found == requests_.end() ? nullptr : &found->second;
}

BookedRequest* RequestBook::Find(const std::string& public_id) {
  const auto found = by_public_id_.find(public_id);
  return found == by_public_id_.end() ? nullptr : &requests_.at(found->second);
}

int32_t RequestBook::TrueToken(const std::string& public_id, uint32_t choice, int64_t position) {
  const BookedRequest* booked = Find(public_id);
  if (booked == nullptr) return -1;
  const std::vector<int32_t>& prompt = booked->request->prompt;
  const size_t p = static_cast<size_t>(position);
  if (p < prompt.size()) return prompt[p];
  if (choice >= booked->reference.choices.size()) return -1;
  const std::vector<int32_t>& tokens = booked->reference.choices[choice].tokens;
  return p - prompt.size() < tokens.size() ? tokens[p - prompt.size()] : -1;
}

void RequestBook::Violate(Checker checker, const BookedRequest& booked, const std::string& what) {
  violations_.Report(checker, absl::StrCat("request ", booked.request->public_id, ": ", what));
}

void RequestBook::Observe(const Event& event, absl::Time now) {
  if (const auto* request = std::get_if<NewRequest>(&event)) {
    BookedRequest& booked = requests_.at(request->request->id);
    booked.applied = true;
    booked.applied_at = now;
    if (request->request->deadline != absl::InfiniteFuture()) {
      deadlines_.emplace(std::max(request->request->deadline, now), request->request->id);
    }
  } else if (const auto* cancel = std::get_if<Cancel>(&event)) {
    if (BookedRequest* booked = Find(cancel->request)) {
      booked->cancelled = true;
      cancelled_.push_back(cancel->request);
    }
  } else if (const auto* stop = std::get_if<TextStop>(&event)) {
    BookedRequest* booked = Find(stop->request);
    if (booked == nullptr || booked->end.has_value()) return;
    booked->choices.at(stop->choice).text_stop = stop->index;
  } else if (const auto* end = std::get_if<TextEnd>(&event)) {
    BookedRequest* booked = Find(end->request);
    if (booked != nullptr) booked->choices.at(end->choice).text_end = true;
  }
}

void RequestBook::Take(const RequestUpdate& update, absl::Time now) {
  BookedRequest* booked = Find(update.request);
  if (booked == nullptr || !booked->applied) {
    violations_.Report(Checker::kTerminal,
                       absl::StrCat("an update for request ", update.request, ", never made"));
    return;
  }
  if (booked->end.has_value()) {
    return Violate(Checker::kTerminal, *booked, "an update after the terminal one");
  }
  if (update.choice >= booked->choices.size()) {
    return Violate(Checker::kTokens, *booked,
                   absl::StrCat("choice ", update.choice, " of ", booked->choices.size()));
  }
  if (update.tokens().empty() && DetailsOf(update).prompt_logprobs.empty() && !update.ended &&
      !update.finished) {
    Violate(Checker::kTokens, *booked, "an update that says nothing");
  }
  if (booked->must_refuse && update.reason != FinishReason::kRejected) {
    Violate(Checker::kTerminal, *booked, "was taken and had to be refused");
  }
  TakePromptScores(*booked, update);
  TakeTokens(*booked, update);
  if (update.ended) TakeChoiceEnd(*booked, update);
  if (update.finished) TakeEnd(*booked, update, now);
}

void RequestBook::TakePromptScores(BookedRequest& booked, const RequestUpdate& update) {
  const std::vector<TokenLogprobs>& wanted = booked.reference.prompt_logprobs;
  if (DetailsOf(update).prompt_logprobs.empty()) return;
  if (DetailsOf(update).first_prompt_index != booked.prompt_scores + 1) {
    Violate(Checker::kUsage, booked,
            absl::StrCat("prompt scores from ", DetailsOf(update).first_prompt_index, " on after ",
                         booked.prompt_scores));
  }
  for (const TokenLogprobs& score : DetailsOf(update).prompt_logprobs) {
    const size_t index = booked.prompt_scores++;
    if (index >= wanted.size() || !SameScore(score, wanted[index])) {
      return Violate(Checker::kUsage, booked,
                     absl::StrCat("prompt position ", index + 1, " is scored wrong"));
    }
  }
}

void RequestBook::TakeTokens(BookedRequest& booked, const RequestUpdate& update) {
  if (update.tokens().empty()) return;
  BookedChoice& choice = booked.choices[update.choice];
  const ReferenceChoice& wanted = booked.reference.choices[update.choice];
  const auto name = [&](size_t index) {
    return absl::StrCat("token ", index, " of choice ", update.choice);
  };
  if (update.first_index != choice.told.size()) {
    Violate(Checker::kTokens, booked,
            absl::StrCat(name(update.first_index), " follows ", choice.told.size()));
  }
  if (choice.ended) Violate(Checker::kTokens, booked, name(update.first_index) + " after the end");
  if (booked.prompt_scores != booked.reference.prompt_logprobs.size()) {
    Violate(Checker::kUsage, booked, "tokens before the prompt's scores");
  }
  const bool scores = booked.request->sampling.logprobs;
  if (DetailsOf(update).logprobs.size() != (scores ? update.tokens().size() : 0)) {
    return Violate(Checker::kUsage, booked, "scores do not match the tokens");
  }
  for (size_t i = 0; i < update.tokens().size(); ++i) {
    const size_t index = choice.told.size();
    if (index >= wanted.tokens.size() || wanted.tokens[index] != update.tokens()[i]) {
      Violate(Checker::kTokens, booked, name(index) + " differs from the undisturbed run");
    }
    if (choice.text_stop.has_value() && index > *choice.text_stop) {
      Violate(Checker::kTokens, booked, name(index) + " is past the stop");
    }
    if (scores && index < wanted.logprobs.size() &&
        !SameScore(DetailsOf(update).logprobs[i], wanted.logprobs[index])) {
      Violate(Checker::kUsage, booked, name(index) + " is scored wrong");
    }
    choice.told.push_back(update.tokens()[i]);
  }
}

void RequestBook::TakeChoiceEnd(BookedRequest& booked, const RequestUpdate& update) {
  BookedChoice& choice = booked.choices[update.choice];
  const ReferenceChoice& wanted = booked.reference.choices[update.choice];
  if (choice.ended) {
    return Violate(Checker::kTerminal, booked,
                   absl::StrCat("choice ", update.choice, " ends twice"));
  }
  choice.ended = true;
  choice.reason = update.reason;
  if (choice.text_stop.has_value()) {
    if (update.reason != FinishReason::kStop && update.reason != wanted.natural_reason) {
      Violate(Checker::kTerminal, booked, "stopped by its text, told otherwise");
    }
    if (choice.told.size() <= *choice.text_stop) {
      Violate(Checker::kTerminal, booked, "stopped before its stop");
    }
    return;
  }
  if (choice.told != wanted.tokens || update.reason != wanted.natural_reason) {
    Violate(Checker::kTerminal, booked,
            absl::StrCat("choice ", update.choice, " ends after ", choice.told.size(),
                         " tokens with ", FinishReasonName(update.reason), ", not after ",
                         wanted.tokens.size(), " with ", FinishReasonName(wanted.natural_reason)));
  }
}

void RequestBook::TakeEnd(BookedRequest& booked, const RequestUpdate& update, absl::Time now) {
  booked.end = update;
  booked.ended_at = now;
  --num_open_;
  CheckCause(booked, update, now);
  CheckCached(booked, update);
  if (DetailsOf(update).prompt_tokens != booked.request->prompt.size()) {
    Violate(Checker::kUsage, booked,
            absl::StrCat("counts ", DetailsOf(update).prompt_tokens, " prompt tokens"));
  }
  const bool ran = DetailsOf(update).first_scheduled != absl::InfiniteFuture();
  if (ran && (DetailsOf(update).first_scheduled < booked.request->arrival ||
              DetailsOf(update).first_scheduled > now)) {
    Violate(Checker::kUsage, booked, "first scheduled before it came or after it ended");
  }
}

void RequestBook::CheckCause(const BookedRequest& booked, const RequestUpdate& update,
                             absl::Time now) {
  size_t told = 0;
  for (const BookedChoice& choice : booked.choices) told += choice.told.size();
  const bool has_deadline = booked.request->deadline != absl::InfiniteFuture();
  switch (update.reason) {
    case FinishReason::kStop:
    case FinishReason::kLength:
      return CheckComplete(booked, update);
    case FinishReason::kCancelled:
      if (!booked.cancelled) Violate(Checker::kTerminal, booked, "was not cancelled");
      break;
    case FinishReason::kDeadline:
      if (!has_deadline) Violate(Checker::kTerminal, booked, "has no deadline");
      if (now < booked.request->deadline &&
          (told > 0 || now + rules_.hopeless_within * booked.request->prompt.size() <
                           booked.request->deadline)) {
        Violate(Checker::kDeadline, booked, "had time left");
      }
      if (now > std::max(booked.request->deadline, booked.applied_at) + rules_.turn) {
        Violate(Checker::kDeadline, booked, "was ended late");
      }
      break;
    case FinishReason::kRejected: {
      const bool hopeless = has_deadline && absl::IsDeadlineExceeded(DetailsOf(update).error);
      if (DetailsOf(update).error.ok() || told > 0 ||
          DetailsOf(update).first_scheduled != absl::InfiniteFuture() ||
          !(booked.must_refuse || hopeless)) {
        Violate(Checker::kTerminal, booked,
                absl::StrCat("refused without cause: ", DetailsOf(update).error.ToString()));
      }
      break;
    }
    case FinishReason::kError: {
      // Failing logits past a stop string may be met before the text side has seen it.
      bool fails = booked.reference.fails;
      for (const ReferenceChoice& choice : booked.reference.choices) {
        fails |= choice.natural_reason == FinishReason::kError;
      }
      if (!fails || DetailsOf(update).error.ok()) {
        Violate(Checker::kTerminal, booked,
                absl::StrCat("failed without cause: ", DetailsOf(update).error.ToString()));
      }
      break;
    }
  }
  if (DetailsOf(update).output_tokens > told) {
    Violate(Checker::kUsage, booked,
            absl::StrCat("counts ", DetailsOf(update).output_tokens, " output tokens, told were ",
                         told));
  }
}

// A request that ended by itself ends where the function of its tokens says.
void RequestBook::CheckComplete(const BookedRequest& booked, const RequestUpdate& update) {
  size_t wanted_tokens = 0;
  bool stops = false;
  for (size_t c = 0; c < booked.choices.size(); ++c) {
    const ReferenceChoice& wanted = booked.reference.choices[c];
    const BookedChoice& choice = booked.choices[c];
    wanted_tokens += wanted.num_tokens;
    stops |= wanted.reason == FinishReason::kStop;
    // One that TextStop ends has no update of its own for that.
    if (!choice.ended && !choice.text_stop) {
      Violate(Checker::kTerminal, booked, absl::StrCat("finished, choice ", c, " has not ended"));
    }
    if (choice.told.size() < wanted.num_tokens) {
      Violate(Checker::kTokens, booked, absl::StrCat("choice ", c, " is short of tokens"));
    }
    if (booked.request->sampling.has_stop_strings && !choice.text_end && !choice.text_stop) {
      Violate(Checker::kTerminal, booked, "finished before its text was read");
    }
    if (wanted.reason == FinishReason::kError) {
      Violate(Checker::kTerminal, booked, "finished in spite of failing logits");
    }
  }
  if (DetailsOf(update).output_tokens != wanted_tokens) {
    Violate(Checker::kUsage, booked,
            absl::StrCat("counts ", DetailsOf(update).output_tokens, " output tokens, not ",
                         wanted_tokens));
  }
  if (update.reason != (stops ? FinishReason::kStop : FinishReason::kLength)) {
    Violate(Checker::kTerminal, booked,
            absl::StrCat("finished with ", FinishReasonName(update.reason)));
  }
}

// A hit is whole blocks, less than the prompt, and somebody of the same domain had those tokens.
void RequestBook::CheckCached(const BookedRequest& booked, const RequestUpdate& update) {
  const int64_t cached = DetailsOf(update).cached_tokens;
  if (cached == 0) return;
  const Request& request = *booked.request;
  if (!rules_.prefix_cache || !request.cache.enabled || cached % rules_.block_size != 0 ||
      cached >= static_cast<int64_t>(request.prompt.size())) {
    return Violate(Checker::kUsage, booked, absl::StrCat("has ", cached, " cached tokens"));
  }
  const auto key_of = [&](const Request& owner, int64_t block) {
    const bool shared = (block + 1) * rules_.block_size <= int64_t{owner.cache.num_shared_tokens};
    return shared ? owner.cache.shared_key : owner.cache.key;
  };
  const auto gives = [&](const BookedRequest& other) {
    const Request& owner = *other.request;
    if (&other == &booked || !other.applied || owner.model != request.model ||
        !owner.cache.enabled) {
      return false;
    }
    for (int64_t block = 0; block < cached / rules_.block_size; ++block) {
      if (key_of(owner, block) != key_of(request, block)) return false;
    }
    for (uint32_t c = 0; c < owner.sampling.num_choices; ++c) {
      bool same = true;
      for (int64_t p = 0; p < cached && same; ++p) {
        same = TrueToken(owner.public_id, c, p) == request.prompt[static_cast<size_t>(p)];
      }
      if (same) return true;
    }
    return false;
  };
  for (const auto& [id, other] : requests_) {
    if (gives(other)) return;
  }
  Violate(Checker::kUsage, booked, absl::StrCat("has ", cached, " cached tokens that nobody had"));
}

void RequestBook::CheckAfterTurn(absl::Time now) {
  for (RequestId id : cancelled_) {
    const BookedRequest& booked = requests_.at(id);
    if (!booked.end.has_value()) Violate(Checker::kTerminal, booked, "lives on after a cancel");
  }
  cancelled_.clear();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const BookedRequest& booked = requests_.at(deadlines_.begin()->second);
    // When all of it is computed the deadline is met; the text side may still be reading.
    const bool computed =
        booked.choices.size() == booked.request->sampling.num_choices &&
        std::all_of(booked.choices.begin(), booked.choices.end(), [](const BookedChoice& choice) {
          return choice.ended || choice.text_stop.has_value();
        });
    if (!booked.end.has_value() && !computed) {
      Violate(Checker::kDeadline, booked, "lives past its deadline");
    }
    deadlines_.erase(deadlines_.begin());
  }
}

}  // namespace tessera::simulation
