// The steps that are out: which ranks have answered, whether they agree, and when waiting is over.
// One per cluster, for all groups; pure, the caller is the ClusterCore.
//
// A group's ranks compute its steps one after another, so a queued step's time begins when the one
// before it was answered, and every rank answers in order.

#ifndef TESSERA_COORDINATOR_CLUSTER_STEP_TRACKER_H_
#define TESSERA_COORDINATOR_CLUSTER_STEP_TRACKER_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

// A step that takes longer than max(kStepDeadlineMin, kStepDeadlineFactor * predicted) is lost.
inline constexpr absl::Duration kStepDeadlineMin = absl::Seconds(2);
inline constexpr double kStepDeadlineFactor = 40;
// Steps of one group that are out at a time; the scheduler keeps to fewer
// (SchedulerOptions::plans_in_flight_max).
inline constexpr size_t kStepsOutMax = 8;

class StepTracker {
 public:
  // flops_per_token[g]: work of one token in group g's model, for the prediction before anything
  // was measured.
  StepTracker(std::vector<double> flops_per_token, std::vector<int> ranks);

  // A plan was sent, behind those that are out already.
  void Begin(const cluster::v1::StepPlan& plan, absl::Time now);
  // A rank's answer. Holds the event once all ranks have answered; an error when the rank failed,
  // left out a step or does not answer the plan's rows, or when the ranks disagree; nothing while
  // others are missing or when the answer is stale.
  absl::StatusOr<std::optional<StepDone>> Add(uint32_t rank, cluster::v1::StepResult result,
                                              absl::Time now);
  // The group's epoch is over; late answers are stale.
  void Forget(uint32_t group);

  struct Overdue {
    uint32_t group = 0;
    uint64_t epoch = 0;
    absl::Status reason;  // names the ranks that have not answered
  };
  std::vector<Overdue> FindOverdue(absl::Time now) const;
  // Expected duration of a step with this many tokens.
  absl::Duration Predict(uint32_t group, int64_t tokens) const;

 private:
  struct Step {
    uint64_t number = 0;
    int64_t tokens = 0;
    std::vector<uint32_t> num_sampled;             // that every rank must answer, per row
    std::vector<cluster::v1::StepResult> results;  // by rank
    std::vector<bool> has_answered;
    int answered = 0;
  };
  struct Group {
    int ranks = 1;
    double seconds_per_step = 0;   // moving average over measured steps
    double seconds_per_token = 0;  // starts as an estimate
    uint64_t epoch = 0;            // of the steps that are out
    std::deque<Step> out;          // the first one is computed, the others are queued on the ranks
    absl::Time begun;              // when the first one's time began
    absl::Time deadline;
  };

  void StartFirst(uint32_t group, absl::Time now);
  StepDone FinishFirst(uint32_t group, absl::Time now);

  std::vector<Group> groups_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_CLUSTER_STEP_TRACKER_H_
