// See the header.

#include "coordinator/ledger/book/gpu_time.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "coordinator/sched/work.h"

namespace tessera {
namespace {

using cluster::v1::StepResult;

double ToSeconds(uint64_t nanoseconds) { return static_cast<double>(nanoseconds) * 1e-9; }

}  // namespace

const char* GpuKindName(GpuKind kind) {
  static constexpr std::array<const char*, kNumGpuKinds> kNames = {
      "prefill",  "decode", "recompute",   "overrun",   "padding",  "capture",
      "recovery", "load",   "idle_bubble", "idle_host", "idle_none"};
  return kNames[static_cast<size_t>(kind)];
}

void GpuTime::Advance(absl::Time now) {
  if (ready_ || epoch_ == 0) return;
  Spent(GpuKind::kRecovery) += ranks_ * absl::ToDoubleSeconds(now - since_);
  since_ = now;
}

void GpuTime::OnReady(const GroupReady& event, absl::Time now) {
  if (event.epoch <= epoch_) return;
  if (ready_) OnLost(epoch_, now);
  const bool is_first = epoch_ == 0;
  if (is_first) {
    begin_ = std::min(event.assigned, now);
    if (begin_ == absl::InfinitePast()) begin_ = now;
    Spent(GpuKind::kLoad) += event.num_ranks * absl::ToDoubleSeconds(now - begin_);
  } else {
    Advance(now);
    wall_before_ += ranks_ * absl::ToDoubleSeconds(now - begin_);
    begin_ = now;
  }
  if (is_first) wall_before_ = 0;
  model_ = event.model;
  ranks_ = event.num_ranks;
  epoch_ = event.epoch;
  ready_ = true;
  since_ = now;
  last_answer_ = now;
  told_ = 0;
  told_by_rank_.clear();
  in_flight_.clear();
}

void GpuTime::OnLost(uint64_t epoch, absl::Time now) {
  if (!ready_ || epoch != epoch_) return;
  const double untold = ranks_ * absl::ToDoubleSeconds(now - since_) - told_;
  Spent(GpuKind::kRecovery) += std::max(untold, 0.0);
  ready_ = false;
  since_ = now;
  in_flight_.clear();
}

void GpuTime::OnPlan(const cluster::v1::StepPlan& plan, absl::Time now) {
  if (ready_ && plan.epoch() == epoch_) in_flight_.push_back({.step = plan.step(), .sent = now});
}

void GpuTime::OnStepDone(const StepDone& done, double work_seconds, absl::Time now) {
  if (!ready_ || done.rank_results.empty() || in_flight_.empty()) return;
  const StepResult& first = done.rank_results.front();
  if (first.epoch() != epoch_ || first.step() != in_flight_.front().step) return;
  const Flight flight = in_flight_.front();
  in_flight_.pop_front();
  // Nobody had anything to compute from the answer before until the plan went out.
  const double none_max =
      std::max(absl::ToDoubleSeconds(flight.sent - std::exchange(last_answer_, now)), 0.0);
  double steps = 0;
  told_by_rank_.resize(done.rank_results.size());
  for (size_t rank = 0; rank < done.rank_results.size(); ++rank) {
    const StepResult& result = done.rank_results[rank];
    const double step = ToSeconds(result.step_ns());
    // A rank that was loaded before the others has waited since then: that is the group's loading.
    const double untold = absl::ToDoubleSeconds(now - since_) - told_by_rank_[rank] - step;
    const double gap = std::clamp(ToSeconds(result.idle_before_ns()), 0.0, std::max(untold, 0.0));
    told_by_rank_[rank] += gap + step;
    const double none = std::min(gap, none_max);
    Spent(GpuKind::kIdleNone) += none;
    Spent(GpuKind::kIdleHost) += gap - none;
    told_ += gap;
    steps += step;
  }
  const double work = work_seconds - std::exchange(work_at_answer_, work_seconds);
  told_ += work;
  if (first.rows() == 0) {  // a heartbeat
    Spent(GpuKind::kIdleNone) += steps;
    told_ += steps;
  } else if (work > 0) {  // else the scheduler did not take the answer, and the group will be lost
    const double waited = std::max(steps - work, 0.0);
    Spent(GpuKind::kIdleBubble) += waited;
    told_ += waited;
  }
}

GpuSeconds GpuTime::Take(absl::Time now) {
  Advance(now);
  return std::exchange(spent_, {});
}

double GpuTime::Wall(absl::Time now) const {
  if (epoch_ == 0) return 0;
  return wall_before_ + ranks_ * absl::ToDoubleSeconds(now - begin_);
}

}  // namespace tessera
