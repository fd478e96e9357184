// Virtual time: what happens when, and a clock that jumps from one event to the next. Events of the
// same moment run in the order in which they were asked for. One thread; whoever simulates holds
// one queue.

#ifndef TESSERA_COORDINATOR_SIM_EVENT_QUEUE_H_
#define TESSERA_COORDINATOR_SIM_EVENT_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"

namespace tessera::sim {

inline constexpr size_t kEventsMax = 1 << 24;  // waiting at a time

class EventQueue {
 public:
  using Action = std::function<void()>;

  const Clock& clock() const { return clock_; }
  absl::Time Now() const { return clock_.Now(); }

  // Not before now; whole nanoseconds.
  void At(absl::Time time, Action action);
  void After(absl::Duration delay, Action action) { At(Now() + delay, std::move(action)); }

  bool empty() const { return heap_.empty(); }
  // When something happens next; infinite future when nothing does.
  absl::Time NextTime() const;
  // Moves the clock to the next event and runs it. There must be one.
  void RunNext();
  // Runs everything up to and including `time`, and moves the clock there.
  void RunUntil(absl::Time time);
  uint64_t num_run() const { return num_run_; }

 private:
  struct Item {
    int64_t time = 0;     // nanoseconds since the clock's epoch
    uint64_t number = 0;  // breaks ties
    Action action;
  };
  // Heap order of the standard library: the greatest is on top.
  static bool Later(const Item& a, const Item& b) {
    return a.time != b.time ? a.time > b.time : a.number > b.number;
  }

  ManualClock clock_;
  std::vector<Item> heap_;
  uint64_t next_number_ = 0;
  uint64_t num_run_ = 0;
};

}  // namespace tessera::sim

#endif  // TESSERA_COORDINATOR_SIM_EVENT_QUEUE_H_
