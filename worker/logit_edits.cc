// See logit_edits.h. The arithmetic is done here, on the host, whatever the device: equal bits.

#include "worker/logit_edits.h"

#include <algorithm>

namespace tessera {

void LogitEdits::Add(int32_t logits_row, const TokenRules& rules) {
  std::vector<int32_t> tokens;
  rules.AppendTouched(vocab_begin_, vocab_begin_ + logits_.dims[1], tokens);
  rows_.push_back({&rules, places_.size()});
  for (const int32_t token : tokens) {
    places_.push_back({logits_row, static_cast<int32_t>(token - vocab_begin_)});
  }
}

void LogitEdits::Apply(const ExecContext& ctx) {
  if (places_.empty()) return;
  ops_.GatherLogits(ctx, before_, logits_, places_);
  std::vector<float> after(before_.size());
  for (size_t r = 0; r < rows_.size(); ++r) {
    const size_t end = r + 1 < rows_.size() ? rows_[r + 1].first : places_.size();
    for (size_t i = rows_[r].first; i < end; ++i) {
      const int32_t token = static_cast<int32_t>(vocab_begin_) + places_[i].column;
      after[i] = rows_[r].rules->Apply(token, before_[i]);
    }
  }
  ops_.ScatterLogits(ctx, logits_, places_, after);
}

void LogitEdits::Restore(const ExecContext& ctx) {
  if (!places_.empty()) ops_.ScatterLogits(ctx, logits_, places_, before_);
}

void SetAllowed(const std::vector<int32_t>& allowed, int64_t vocab_begin, int64_t columns,
                uint32_t* words) {
  auto token = std::lower_bound(allowed.begin(), allowed.end(), vocab_begin);
  for (; token != allowed.end() && *token < vocab_begin + columns; ++token) {
    const int64_t column = *token - vocab_begin;
    words[column / 32] |= 1u << (column % 32);
  }
}

}  // namespace tessera
