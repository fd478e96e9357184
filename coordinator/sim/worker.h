// A simulated worker process: dials, becomes the rank it is told to be, answers plans in order, and
// can be killed, stopped and slowed down at any moment. What its steps contain comes from a
// RankProgram, how long they take from a time model. Lives on the simulation's one thread.
//
// It keeps the protocol of cluster.proto as tessera-worker does, including what that does about
// messages that make no sense.

#ifndef TESSERA_COORDINATOR_SIM_WORKER_H_
#define TESSERA_COORDINATOR_SIM_WORKER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/sim/event_queue.h"
#include "coordinator/sim/fabric.h"
#include "coordinator/sim/random.h"
#include "coordinator/sim/streams.h"
#include "coordinator/sim/time_model.h"
#include "tessera/cluster/v1/cluster.pb.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera::sim {

// Fills the columns of a result, or its error. Called once per plan, in order; identity and
// accounts are the worker's.
using RankProgram = std::function<cluster::v1::StepResult(const cluster::v1::StepPlan& plan)>;
// Makes one for each assignment: a rank begins with an empty cache.
using RankFactory =
    std::function<RankProgram(const cluster::v1::Assign& assign, uint32_t worker_index)>;

struct WorkerOptions {
  std::string name = "worker";
  std::string host = "host";
  uint64_t memory_free_bytes = uint64_t{1} << 40;
  StepTimeModel time;
  absl::Duration start_time = absl::Milliseconds(300);  // from exec to dialling
  absl::Duration load_time = absl::Seconds(2);          // reading the shard
  absl::Duration reuse_time = absl::Milliseconds(20);   // when the weights are still there
};

class Worker {
 public:
  Worker(WorkerOptions options, uint32_t index, Wire& wire, Fabric& fabric, const Door& door,
         const RankFactory& ranks);

  void Start();
  // The process ends; streams break at once, or after `notice` when its whole host is gone. A
  // supervisor starts it again after `restart`.
  void Kill(absl::Duration restart, absl::Duration notice = absl::ZeroDuration());
  // It stands still, and whatever should happen in it happens afterwards.
  void Pause(absl::Duration time);
  // Steps take this many times as long from now on.
  void SetSlowness(double factor) { slowness_ = factor; }
  // The next load ends like this instead; the process exits and is started again after `restart`.
  void FailNextLoad(absl::Status status, absl::Duration restart);
  // Under the current assignment, as if they had been under way.
  void InjectPlan(SharedPlan plan);
  void InjectResult(cluster::v1::StepResult result);

  bool serving() const { return assignment_ != nullptr && assignment_->steps != nullptr; }
  bool alive() const { return alive_; }
  // Since when it says nothing: dead or paused. Infinite future while it is awake.
  absl::Time silent_since() const { return silent_since_; }

 private:
  // A step under way.
  struct Progress {
    cluster::v1::StepResult result;
    absl::Time begin;
    absl::Time computed;
    absl::Time met;
    bool refused = false;  // not this rank's plan
  };
  struct Assignment {
    uint64_t number = 0;  // of this worker's assignments
    cluster::v1::Assign assign;
    RankProgram program;
    std::shared_ptr<StepStream> steps;  // once the other ranks are known
    std::deque<SharedPlan> queue;       // the first one is computed
    bool busy = false;
    uint64_t last_step = 0;
    absl::Time last_end;
    std::shared_ptr<Progress> meeting;  // waits for the other ranks
    bool watched = false;               // a look at that is due
  };
  using Action = EventQueue::Action;

  // Runs the action after the delay if the process still lives, and once it is awake.
  void After(absl::Duration delay, Action action);
  // The same, if it also still has that assignment.
  void AfterIn(const Assignment& assignment, absl::Duration delay, Action action);
  void WhenAwake(Action action);
  void Resume();

  void Dial();
  bool IsOn(uint64_t dial) const { return control_ != nullptr && num_dials_ == dial; }
  void HangUp();  // and dial again
  void Send(cluster::v1::WorkerMessage message);
  void Beat();
  void OnMessage(const cluster::v1::CoordinatorMessage& message);
  void OnAssign(const cluster::v1::Assign& assign);
  void Load(absl::Duration left);
  void Connect();
  void OnPeers(const cluster::v1::CommPeers& peers);
  void EndAssignment();
  void Exit(absl::Duration restart);

  void OnPlan(SharedPlan plan);
  void StartStep();
  void Meet(std::shared_ptr<Progress> step);
  void Watch();
  void Answer(std::shared_ptr<Progress> step);
  static absl::Status CheckIdentity(const Assignment& assignment,
                                    const cluster::v1::StepPlan& plan);

  const WorkerOptions options_;
  const uint32_t index_;
  Wire& wire_;
  Fabric& fabric_;
  const Door& door_;
  const RankFactory& ranks_;
  Random random_;

  bool alive_ = false;
  uint64_t life_ = 0;  // processes so far
  absl::Time awake_at_ = absl::InfinitePast();
  absl::Time silent_since_ = absl::InfinitePast();  // before its first start, too
  std::vector<Action> asleep_;                      // what waits for that
  double slowness_ = 1;
  absl::Status load_failure_;
  absl::Duration load_failure_restart_;

  uint64_t num_dials_ = 0;  // names control_
  std::shared_ptr<ControlStream> control_;
  uint64_t worker_id_ = 0;  // 0: no Welcome yet
  uint64_t last_epoch_ = 0;
  absl::Duration heartbeat_interval_;
  std::string held_digest_;  // of the weights in memory
  uint64_t num_assignments_ = 0;
  std::unique_ptr<Assignment> assignment_;
};

}  // namespace tessera::sim

#endif  // TESSERA_COORDINATOR_SIM_WORKER_H_
