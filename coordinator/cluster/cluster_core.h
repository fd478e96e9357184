// Every decision of the cluster, without a wire: what a message, an answer, a closed stream or the
// passing of time means for groups and steps. Puts GroupManager and StepTracker together; inputs
// and time in, what has to be carried out comes back as GroupActions. Pure, so the simulator runs
// exactly what production runs. One caller at a time (the Cluster's mutex).

#ifndef TESSERA_COORDINATOR_CLUSTER_CLUSTER_CORE_H_
#define TESSERA_COORDINATOR_CLUSTER_CLUSTER_CORE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/cluster/group_manager.h"
#include "coordinator/cluster/step_tracker.h"
#include "tessera/cluster/v1/cluster.pb.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

class ClusterCore {
 public:
  explicit ClusterCore(GroupManagerOptions options);

  // The first message of a control stream; returns the worker's id. INVALID_ARGUMENT when it is no
  // Hello, else as GroupManager::Join.
  absl::StatusOr<uint64_t> Join(const cluster::v1::WorkerMessage& first, absl::Time now,
                                GroupActions& actions);
  void OnMessage(uint64_t worker, const cluster::v1::WorkerMessage& message, absl::Time now,
                 GroupActions& actions);
  void OnControlStreamClosed(uint64_t worker, absl::Time now, GroupActions& actions);

  // `epoch` is the one under which the worker opened the step stream.
  absl::Status OnStepStream(uint64_t worker, uint64_t epoch, absl::Time now, GroupActions& actions);
  void OnStepResult(uint64_t worker, uint64_t epoch, cluster::v1::StepResult result, absl::Time now,
                    GroupActions& actions);
  void OnUnreadableResult(uint64_t worker, uint64_t epoch, absl::Time now, GroupActions& actions);
  void OnStepStreamClosed(uint64_t worker, uint64_t epoch, absl::Time now, GroupActions& actions);

  // The workers to send the plan to, in rank order, counted as sent from now on. None for a group
  // that was lost since the plan was made: its GroupLost is among the events already.
  std::vector<uint64_t> BeginStep(const cluster::v1::StepPlan& plan, absl::Time now);
  // One of those workers takes no plans any more.
  void OnPlanNotTaken(const cluster::v1::StepPlan& plan, absl::Time now, GroupActions& actions);

  // Missed heartbeats and overdue steps. Call every tick_interval().
  void Tick(absl::Time now, GroupActions& actions);
  absl::Duration tick_interval() const { return manager_.options().heartbeat_interval / 4; }

 private:
  void FailStep(uint32_t group, uint64_t epoch, const absl::Status& reason, absl::Time now,
                GroupActions& actions);
  // Steps of groups that are lost now are not waited for.
  void ForgetLost(const GroupActions& actions);

  GroupManager manager_;
  StepTracker tracker_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_CLUSTER_CLUSTER_CORE_H_
