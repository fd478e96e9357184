// Where the time of a group's GPUs goes beside the work that rows share: every second since its
// ranks were first told to load belongs to exactly one kind. Events in, GPU-seconds out; engine
// thread only.
//
// While a group is ready its ranks account for themselves: every result tells how long the step
// took and the gap before it. What they have not told when the group is lost, a step that nobody
// will answer and the time until the loss is noticed, counts as recovery.

#ifndef TESSERA_COORDINATOR_LEDGER_BOOK_GPU_TIME_H_
#define TESSERA_COORDINATOR_LEDGER_BOOK_GPU_TIME_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

// What a GPU-second was. The first four are WorkKind, in its order, and have a tenant.
enum class GpuKind : uint8_t {
  kPrefill,
  kDecode,
  kRecompute,
  kOverrun,
  kPadding,     // RESERVED: rows that a captured graph computes for nobody
  kCapture,     // RESERVED: making graphs
  kRecovery,    // from the last answer before a group was lost until it is ready again
  kLoad,        // from the first assignment until ready
  kIdleBubble,  // ranks that were done waited for the slowest one
  kIdleHost,    // a plan was there or due, but the rank had not begun it
  kIdleNone,    // nothing to compute
};
inline constexpr size_t kNumGpuKinds = 11;
const char* GpuKindName(GpuKind kind);  // as in metrics: "idle_none"

using GpuSeconds = std::array<double, kNumGpuKinds>;

class GpuTime {
 public:
  void OnReady(const GroupReady& event, absl::Time now);
  void OnLost(uint64_t epoch, absl::Time now);
  // A plan goes out to the group.
  void OnPlan(const cluster::v1::StepPlan& plan, absl::Time now);
  // All ranks have answered; `work_seconds` as GroupStats has it, once the scheduler has seen them.
  void OnStepDone(const StepDone& done, double work_seconds, absl::Time now);

  // What was spent on kinds without a tenant since the last call.
  GpuSeconds Take(absl::Time now);
  // GPU-seconds of wall time since the first assignment: ranks x time.
  double Wall(absl::Time now) const;
  uint32_t model() const { return model_; }

 private:
  struct Flight {
    uint64_t step = 0;
    absl::Time sent;
  };

  double& Spent(GpuKind kind) { return spent_[static_cast<size_t>(kind)]; }
  // Time of the group as a whole up to now, while its ranks do not account for themselves.
  void Advance(absl::Time now);

  uint32_t model_ = 0;
  double ranks_ = 0;
  absl::Time begin_ = absl::InfiniteFuture();  // of the wall time
  double wall_before_ = 0;                     // with another number of ranks

  // Of the current epoch.
  uint64_t epoch_ = 0;
  bool ready_ = false;
  absl::Time since_;                  // ready; or lost and counted as recovery up to here
  double told_ = 0;                   // by its ranks and shared out over rows
  std::vector<double> told_by_rank_;  // by each: steps and gaps
  double work_at_answer_ = 0;         // GroupStats::work_seconds then
  absl::Time last_answer_;
  std::deque<Flight> in_flight_;  // oldest first

  GpuSeconds spent_ = {};
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_BOOK_GPU_TIME_H_
