// Where plans go. The cluster sends them to real ranks; the simulator computes them under a virtual
// clock. The answer comes back as a StepDone (or GroupLost) event.

#ifndef TESSERA_COORDINATOR_SCHED_STEP_EXECUTOR_H_
#define TESSERA_COORDINATOR_SCHED_STEP_EXECUTOR_H_

#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

class StepExecutor {
 public:
  virtual ~StepExecutor() = default;
  // Never blocks and never fails: a group that cannot take the plan is reported lost.
  virtual void Submit(cluster::v1::StepPlan plan) = 0;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_STEP_EXECUTOR_H_
