// See the header.

#include "tests/simulation/reference.h"

#include <algorithm>

#include "tests/simulation/symbolic_model.h"

namespace tessera::simulation {
namespace {

ReferenceChoice ComputeChoice(const Request& request, const DrawParams& params, uint64_t state,
                              uint32_t choice, int64_t context_max) {
  const SamplingParams& sampling = request.sampling;
  ReferenceChoice answer;
  int64_t num_tokens = static_cast<int64_t>(request.prompt.size());
  while (true) {
    const int32_t token = DrawToken(params, state, state, num_tokens, choice);
    if (token < 0) {
      answer.natural_reason = FinishReason::kError;
      break;
    }
    if (sampling.logprobs) answer.logprobs.push_back(Score(state, token, params.top_logprobs));
    answer.tokens.push_back(token);
    state = Extend(state, token, num_tokens++);
    const auto& stop_ids = sampling.stop_token_ids;
    if (std::find(stop_ids.begin(), stop_ids.end(), token) != stop_ids.end()) {
      answer.natural_reason = FinishReason::kStop;
      break;
    }
    if (answer.tokens.size() == sampling.max_tokens || num_tokens == context_max) {
      answer.natural_reason = FinishReason::kLength;
      break;
    }
  }
  return answer;
}

}  // namespace

size_t FindStop(const std::vector<int32_t>& tokens, const StopStrings& stops) {
  for (size_t end = 1; end <= tokens.size(); ++end) {
    for (const std::vector<int32_t>& stop : stops) {
      if (stop.size() <= end &&
          std::equal(stop.begin(), stop.end(), tokens.begin() + end - stop.size())) {
        return end - 1;
      }
    }
  }
  return tokens.size();
}

Reference ComputeReference(const Request& request, const StopStrings& stops, int64_t context_max) {
  const DrawParams params = ParamsOf(request);
  Reference reference;
  uint64_t state = 0;
  for (size_t p = 0; p < request.prompt.size(); ++p) {
    if (p > 0 && params.prompt_logprobs > 0) {
      reference.prompt_logprobs.push_back(
          Score(state, request.prompt[p], params.prompt_logprobs - 1));
    }
    state = Extend(state, request.prompt[p], static_cast<int64_t>(p));
  }
  for (uint32_t c = 0; c < request.sampling.num_choices; ++c) {
    ReferenceChoice choice = ComputeChoice(request, params, state, c, context_max);
    choice.num_tokens = choice.tokens.size();
    choice.reason = choice.natural_reason;
    // The text of a stop token is not part of the answer.
    const bool ends_with_stop = choice.natural_reason == FinishReason::kStop;
    const std::vector<int32_t> text(choice.tokens.begin(),
                                    choice.tokens.end() - (ends_with_stop ? 1 : 0));
    const size_t stop = FindStop(text, stops);
    if (stop < text.size()) {
      choice.num_tokens = stop + 1;
      choice.reason = FinishReason::kStop;
    }
    reference.fails |= choice.reason == FinishReason::kError;
    reference.choices.push_back(std::move(choice));
  }
  return reference;
}

}  // namespace tessera::simulation
