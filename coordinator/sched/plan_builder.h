// Which running sequences compute how many tokens in the next step, and that choice as packed
// columns. Called by the scheduler for a group without a plan in flight; engine thread only.

#ifndef TESSERA_COORDINATOR_SCHED_PLAN_BUILDER_H_
#define TESSERA_COORDINATOR_SCHED_PLAN_BUILDER_H_

#include <cstdint>
#include <vector>

#include "coordinator/sched/group_state.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

// Of one step.
struct PlanLimits {
  int64_t tokens_max = 0;  // >= rows_max
  int64_t rows_max = 0;    // >= running sequences, so that everyone can have a row
  int64_t chunk_max = 0;   // tokens of one row
};

// Sequences that owe one token first (decode never waits for prompts), then the others in order of
// admission as far as the token budget goes.
std::vector<PlannedRow> ChooseRows(const std::vector<Sequence*>& running, const PlanLimits& limits);

// The next plan of the group: extends block tables, notes the plan in `group` and in its sequences.
// With nothing running it is the heartbeat.
cluster::v1::StepPlan BuildPlan(const PlanLimits& limits, uint64_t term, absl::Time now,
                                GroupState& group);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_PLAN_BUILDER_H_
