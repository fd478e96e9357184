// See token_rules.h.

#include "worker/token_rules.h"

#include <algorithm>
#include <limits>

namespace tessera {

TokenRules::TokenRules(const TokenRuleParams& params)
    : min_tokens_(params.min_tokens),
      repetition_penalty_(params.repetition_penalty == 0.0f ? 1.0f : params.repetition_penalty),
      frequency_penalty_(params.frequency_penalty),
      presence_penalty_(params.presence_penalty),
      allowed_(params.allowed) {
  for (const auto& [token, bias] : params.logit_bias) Entry(token).bias = bias;
  for (const int32_t token : params.banned) Entry(token).banned = true;
  for (const int32_t token : params.min_tokens_banned) Entry(token).banned_at_first = true;
  std::sort(allowed_.begin(), allowed_.end());
}

bool TokenRules::Any(const TokenRuleParams& params) {
  const bool repetition = params.repetition_penalty != 0.0f && params.repetition_penalty != 1.0f;
  const bool minimum = params.min_tokens > 0 && !params.min_tokens_banned.empty();
  return repetition || minimum || params.frequency_penalty != 0.0f ||
         params.presence_penalty != 0.0f || !params.logit_bias.empty() || !params.allowed.empty() ||
         !params.banned.empty();
}

void TokenRules::AddPrompt(int32_t token) {
  if (repetition_penalty_ != 1.0f) Entry(token).seen = true;
}

void TokenRules::AddOutput(int32_t token) {
  ++num_outputs_;
  const bool counts =
      repetition_penalty_ != 1.0f || frequency_penalty_ != 0.0f || presence_penalty_ != 0.0f;
  if (!counts) return;
  Token& entry = Entry(token);
  entry.seen = true;
  ++entry.output_count;
}

void TokenRules::AppendTouched(int64_t begin, int64_t end, std::vector<int32_t>& tokens) const {
  for (const Token& token : tokens_) {
    if (token.id >= begin && token.id < end && Touched(token)) tokens.push_back(token.id);
  }
}

float TokenRules::Apply(int32_t token, float logit) const {
  const auto found = index_.find(token);
  if (found == index_.end()) return logit;
  const Token& entry = tokens_[found->second];
  if (Banned(entry)) return -std::numeric_limits<float>::infinity();
  logit += entry.bias;
  if (entry.seen) {
    logit = logit < 0.0f ? logit * repetition_penalty_ : logit / repetition_penalty_;
  }
  if (entry.output_count > 0) {
    logit -= frequency_penalty_ * static_cast<float>(entry.output_count);
    logit -= presence_penalty_;
  }
  return logit;
}

TokenRules::Token& TokenRules::Entry(int32_t token) {
  const auto [place, added] = index_.try_emplace(token, static_cast<uint32_t>(tokens_.size()));
  if (added) tokens_.push_back({.id = token});
  return tokens_[place->second];
}

bool TokenRules::Banned(const Token& token) const {
  return token.banned || (token.banned_at_first && num_outputs_ < min_tokens_);
}

bool TokenRules::Touched(const Token& token) const {
  return token.bias != 0.0f || token.seen || Banned(token);
}

}  // namespace tessera
