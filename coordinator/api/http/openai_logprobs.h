// Log probabilities as OpenAI's two APIs and vLLM's prompt_logprobs write them. Any thread.

#ifndef TESSERA_COORDINATOR_API_HTTP_OPENAI_LOGPROBS_H_
#define TESSERA_COORDINATOR_API_HTTP_OPENAI_LOGPROBS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/api/generation.h"
#include "coordinator/text/tokenizer.h"

namespace tessera::api {

using OrderedJson = nlohmann::ordered_json;

// JSON has no infinity: a probability of 0 is written as this.
inline constexpr double kLogprobMin = -9999;

// {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}
OrderedJson ChatLogprobs(const text::Tokenizer& tokenizer, const ChoiceDelta& delta);

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"}, filled piece by piece.
class CompletionLogprobs {
 public:
  // At most `top` alternatives of each token are written, the token itself besides.
  CompletionLogprobs(const text::Tokenizer& tokenizer, uint32_t top);

  // An echoed prompt, whose first token has none. `scores`: of the second token on.
  void AddPrompt(absl::Span<const int32_t> ids, absl::Span<const TokenLogprobs> scores);
  // `text_before`: characters of the text before the choice's own (an echoed prompt).
  void Add(const ChoiceDelta& delta, uint32_t text_before);
  OrderedJson Take() { return std::move(json_); }

 private:
  void AddToken(int32_t id, uint32_t offset, const TokenLogprobs* scores);

  const text::Tokenizer& tokenizer_;
  const uint32_t top_;
  OrderedJson json_;
};

// [null, {"token id": {"logprob", "rank", "decoded_token"}}, ...]: the `top` most likely tokens of
// each place and the prompt's own. That one's rank is known where it is among the alternatives that
// `scores` holds, which may be more than `top`; else it has none.
OrderedJson PromptLogprobs(const text::Tokenizer& tokenizer, absl::Span<const int32_t> ids,
                           absl::Span<const TokenLogprobs> scores, uint32_t top);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_HTTP_OPENAI_LOGPROBS_H_
