// The coordinator's side of the simulated wire: what coordinator/cluster/cluster.h is to gRPC, this
// is to simulated streams. Every decision is ClusterCore's, the same as in production. Lives on the
// simulation's one thread.

#ifndef TESSERA_COORDINATOR_SIM_CLUSTER_H_
#define TESSERA_COORDINATOR_SIM_CLUSTER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "coordinator/cluster/cluster_core.h"
#include "coordinator/sched/step_executor.h"
#include "coordinator/sim/streams.h"

namespace tessera::sim {

class Cluster final : public StepExecutor {
 public:
  struct Outlets {
    std::function<void(Event)> post;
    NoticeSink notice;  // may be empty
  };

  Cluster(GroupManagerOptions options, Wire& wire, Outlets outlets);

  void Start();  // ticking
  const Door& door() const { return door_; }
  void Submit(cluster::v1::StepPlan plan) override;

 private:
  struct Control {
    std::shared_ptr<ControlStream> stream;
    uint64_t worker = 0;  // its id after Hello
  };

  void OnJoin(std::shared_ptr<ControlStream> stream);
  void OnWorkerMessage(uint64_t control, const cluster::v1::WorkerMessage& message);
  void OnControlClosed(uint64_t control);
  void OnSteps(std::shared_ptr<StepStream> stream);
  void OnStepMessage(uint64_t steps, const StepStream::Up& message);
  void OnStepsClosed(uint64_t steps);
  void Tick();
  void Carry(GroupActions& actions);
  void CloseControl(uint64_t control);

  Wire& wire_;
  const Outlets outlets_;
  Door door_;
  ClusterCore core_;
  uint64_t next_stream_ = 1;
  std::map<uint64_t, Control> controls_;                   // by number of the stream
  std::map<uint64_t, uint64_t> control_of_;                // worker id -> key of controls_
  std::map<uint64_t, std::shared_ptr<StepStream>> steps_;  // by number of the stream
  std::map<uint64_t, uint64_t> steps_of_;                  // worker id -> accepted key of steps_
};

}  // namespace tessera::sim

#endif  // TESSERA_COORDINATOR_SIM_CLUSTER_H_
