// What a request says about single tokens, and which tokens its sequence has seen: bias, bans,
// repetition, frequency and presence penalties. One object per sequence that has such a rule, owned
// by its SequenceState and brought up to date by the engine thread; the sampler reads it. All
// choices of a row that have seen the same tokens should point to the same object.
//
// Costs are in tokens that a rule mentions or the sequence has seen (each once), never in the
// vocabulary; a list of allowed tokens is a bit mask over the shard.

#ifndef TESSERA_WORKER_TOKEN_RULES_H_
#define TESSERA_WORKER_TOKEN_RULES_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tessera {

// The rules as a request gives them; ids in [0, vocabulary), numbers finite. Defaults: no rule.
struct TokenRuleParams {
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // of an id given twice the last counts
  std::vector<int32_t> allowed = {};                       // empty: all
  std::vector<int32_t> banned = {};
  uint32_t min_tokens = 0;  // while fewer are in the output, min_tokens_banned are banned too
  std::vector<int32_t> min_tokens_banned = {};
  float repetition_penalty = 1.0f;  // > 0; 0 or 1: off
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
};

// New logit of a token, float32, one rounding per step:
//   l += logit_bias
//   banned, not allowed, or banned until min_tokens: l = -inf
//   in prompt or output: l = l < 0 ? l * repetition_penalty : l / repetition_penalty
//   in the output, count times: l -= frequency_penalty * count; l -= presence_penalty
class TokenRules {
 public:
  explicit TokenRules(const TokenRuleParams& params);

  // False when no rule is given at all: the row's pointer may then be null.
  static bool Any(const TokenRuleParams& params);

  // The sequence's tokens, in any order, each exactly once: those of the prompt, and each one of
  // the output before the next is sampled.
  void AddPrompt(int32_t token);
  void AddOutput(int32_t token);

  // -- for the sampler ---------------------------------------------------------------------------
  // Appends the tokens in [begin, end) whose logit changes now, apart from the allowed list; each
  // once, in an order that depends on the calls above alone.
  void AppendTouched(int64_t begin, int64_t end, std::vector<int32_t>& tokens) const;
  // The new logit of a touched token.
  float Apply(int32_t token, float logit) const;
  const std::vector<int32_t>& allowed() const { return allowed_; }  // ascending; empty: all

 private:
  // All that is known of one token.
  struct Token {
    int32_t id = 0;
    float bias = 0.0f;
    uint32_t output_count = 0;
    bool seen = false;  // in prompt or output
    bool banned = false;
    bool banned_at_first = false;  // until min_tokens
  };

  Token& Entry(int32_t token);
  bool Banned(const Token& token) const;
  bool Touched(const Token& token) const;

  const uint32_t min_tokens_;
  const float repetition_penalty_;  // 1: off
  const float frequency_penalty_;
  const float presence_penalty_;
  std::vector<int32_t> allowed_;
  std::vector<Token> tokens_;                     // in order of first mention
  absl::flat_hash_map<int32_t, uint32_t> index_;  // id -> place in tokens_
  uint32_t num_outputs_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_TOKEN_RULES_H_
