// Where the time of one step went, by kind, as intervals of one clock that never overlap: entering
// a kind ends the one before. Sums per kind are kept rather than every interval, because a step has
// hundreds and their owner is the same. Used by the engine and the decoder on the engine thread.

#ifndef TESSERA_WORKER_STEP_TIMER_H_
#define TESSERA_WORKER_STEP_TIMER_H_

#include <algorithm>
#include <array>

#include "base/clock.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

class StepTimer {
 public:
  using Kind = cluster::v1::DeviceInterval::Kind;

  explicit StepTimer(const Clock& clock) : clock_(clock) {}

  void Enter(Kind kind) {
    const absl::Time now = clock_.Now();
    Close(now);
    kind_ = kind;
    open_ = true;
    begin_ = now;
  }
  // What follows belongs to no kind.
  void Leave() { Close(clock_.Now()); }

  // Appends one interval per kind that took time and starts over.
  void Report(cluster::v1::StepResult& result) {
    Leave();
    for (size_t kind = 0; kind < sums_.size(); ++kind) {
      if (sums_[kind] == absl::ZeroDuration()) continue;
      cluster::v1::DeviceInterval* interval = result.add_intervals();
      interval->set_kind(static_cast<Kind>(kind));
      interval->set_duration_ns(absl::ToInt64Nanoseconds(sums_[kind]));
    }
    sums_.fill(absl::ZeroDuration());
  }

 private:
  void Close(absl::Time now) {
    // A wall clock that was set back costs an interval, never a negative one.
    if (open_) sums_[kind_] += std::max(now - begin_, absl::ZeroDuration());
    open_ = false;
  }

  const Clock& clock_;
  std::array<absl::Duration, cluster::v1::DeviceInterval::Kind_MAX + 1> sums_ = {};
  Kind kind_ = cluster::v1::DeviceInterval::COMPUTE;
  bool open_ = false;
  absl::Time begin_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_STEP_TIMER_H_
