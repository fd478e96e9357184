// OpenAI response objects as text, for chat and plain completions, whole and as stream chunks. One
// per answer, on its connection's strand.

#ifndef TESSERA_COORDINATOR_API_HTTP_OPENAI_RESPONSE_H_
#define TESSERA_COORDINATOR_API_HTTP_OPENAI_RESPONSE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/api/cost_report.h"
#include "coordinator/api/generation.h"
#include "coordinator/api/http/openai_logprobs.h"
#include "coordinator/text/tokenizer.h"

namespace tessera::api {

// What an answer is like, whatever is in it.
struct AnswerShape {
  bool chat = false;
  std::string id;
  std::string model;
  int64_t created = 0;  // Unix seconds
  uint64_t seed = 0;
  bool usage_in_chunks = false;             // stream_options.include_usage
  bool include_cost = false;                // usage has `cost`; streams then end with usage
  uint32_t choices = 1;                     // that are returned
  std::optional<uint32_t> top_logprobs;     // set: with log probabilities
  std::optional<uint32_t> prompt_logprobs;  // likewise of the prompt
  bool echo = false;                        // every choice begins with the prompt:
  std::string prompt_text;
  std::vector<int32_t> prompt;
  std::shared_ptr<const text::Tokenizer> tokenizer;
};

class OpenAiAnswer {
 public:
  explicit OpenAiAnswer(AnswerShape shape);

  // More of the prompt's log probabilities; all before the first token is written.
  void AddPromptLogprobs(std::vector<TokenLogprobs> scores);

  // The whole answer, a JSON object. `choices`: all that were generated; of more than are returned
  // those with the highest mean log probability per token are.
  // `cost` is shown where it was asked for.
  std::string Whole(std::vector<ChoiceDelta> choices, const Usage& usage,
                    const std::optional<CostReport>& cost) const;

  // Server-sent events. Opening: the role chunk of each choice of a chat, nothing otherwise.
  std::string Opening() const;
  // What is new of one choice, its finish reason in a chunk of its own.
  std::string Chunks(const ChoiceDelta& delta);
  // Usage when asked for, [DONE].
  std::string Closing(const Usage& usage, const std::optional<CostReport>& cost) const;

 private:
  OrderedJson Envelope(const char* object) const;
  OrderedJson UsageJson(const Usage& usage, const std::optional<CostReport>& cost) const;
  const char* ChunkName() const;
  std::string Chunk(OrderedJson choice) const;
  // `first`: the choice's first piece, which has the echoed prompt.
  OrderedJson Logprobs(const ChoiceDelta& delta, bool first) const;

  const AnswerShape shape_;
  const uint32_t prompt_characters_;  // of the echoed text
  std::vector<TokenLogprobs> prompt_scores_;
  std::vector<bool> begun_;  // by choice
};

// One server-sent event.
std::string SseEvent(const std::string& data);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_HTTP_OPENAI_RESPONSE_H_
