// A binary heap; see event_queue.h.

#include "coordinator/sim/event_queue.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tessera::sim {

void EventQueue::At(absl::Time time, Action action) {
  TESSERA_CHECK(heap_.size() < kEventsMax) << heap_.size() << " events wait";
  int64_t nanoseconds = absl::ToUnixNanos(std::max(time, Now()));
  if (absl::FromUnixNanos(nanoseconds) < time) ++nanoseconds;  // never early
  heap_.push_back({nanoseconds, next_number_++, std::move(action)});
  std::push_heap(heap_.begin(), heap_.end(), Later);
}

absl::Time EventQueue::NextTime() const {
  return heap_.empty() ? absl::InfiniteFuture() : absl::FromUnixNanos(heap_.front().time);
}

void EventQueue::RunNext() {
  TESSERA_CHECK(!heap_.empty());
  std::pop_heap(heap_.begin(), heap_.end(), Later);
  const Item item = std::move(heap_.back());
  heap_.pop_back();
  clock_.Advance(absl::FromUnixNanos(item.time) - clock_.Now());
  ++num_run_;
  item.action();
}

void EventQueue::RunUntil(absl::Time time) {
  while (NextTime() <= time) RunNext();
  clock_.Advance(time - clock_.Now());
}

}  // namespace tessera::sim
