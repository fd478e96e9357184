// See outlook.h.

#include "coordinator/sched/outlook.h"

#include <algorithm>

namespace tessera {
namespace {

// Of the answers that are longer than this one is by now, so many percent end within the guess.
constexpr int64_t kPercentile = 80;

}  // namespace

void OutputLengths::Add(int64_t tokens) {
  if (recent_.size() < kKept) {
    recent_.push_back(tokens);
  } else {
    recent_[next_] = tokens;
    next_ = (next_ + 1) % kKept;
  }
  stale_ = true;
}

int64_t OutputLengths::Remaining(int64_t done, int64_t most) const {
  if (stale_) {
    sorted_ = recent_;
    std::sort(sorted_.begin(), sorted_.end());
    stale_ = false;
  }
  const auto longer = std::upper_bound(sorted_.begin(), sorted_.end(), done);
  const int64_t count = sorted_.end() - longer;
  if (count == 0) return most - done;
  const int64_t guess = *(longer + (count - 1) * kPercentile / 100);
  return std::min(guess, most) - done;
}

void Outlook::Add(int64_t own, int64_t remaining, int64_t remaining_max) {
  sequences_.push_back({own, remaining, remaining_max});
}

bool Outlook::Fits(int64_t shared, int64_t capacity) const {
  int64_t most = shared;
  for (const Entry& entry : sequences_) most += entry.own + entry.remaining_max;
  if (most <= capacity) return true;
  std::vector<Entry> by_remaining = sequences_;
  std::sort(by_remaining.begin(), by_remaining.end(),
            [](const Entry& a, const Entry& b) { return a.remaining > b.remaining; });
  int64_t own = shared;
  int64_t count = 0;
  for (const Entry& entry : by_remaining) {
    own += entry.own;
    ++count;
    if (own + count * entry.remaining > capacity) return false;
  }
  return true;
}

}  // namespace tessera
