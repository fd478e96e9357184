// The next step of one group: which sequences compute how many tokens, the blocks they need for it,
// and all of that as packed columns. Made by the scheduler for one plan and thrown away; engine
// thread only. In steady decode nothing is allocated per row.

#ifndef TESSERA_COORDINATOR_SCHED_PLAN_BUILDER_H_
#define TESSERA_COORDINATOR_SCHED_PLAN_BUILDER_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/sched/scheduler_state.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

class PlanBuilder {
 public:
  PlanBuilder(Scheduler::State& state, GroupState& group, absl::Time now)
      : state_(state), options_(state.options), group_(group), now_(now) {}

  // False when there is nothing to compute: nothing has changed then, except that sequences may
  // have been made to leave.
  bool ChooseRows();
  // The chosen rows as the group's next plan. Without any it is the heartbeat.
  void Fill(cluster::v1::StepPlan& plan);

 private:
  void TryProtected();
  // Tokens that the sequence wants in this step, 0 for none.
  static int64_t Wanted(const Sequence& sequence);
  void TryDecode(Sequence& sequence);
  void TryPrefill(Sequence& sequence);
  int64_t ChunkOf(const Sequence& sequence) const;
  // Blocks for `tokens` more tokens; takes them from others when `may_take`.
  bool Hold(Sequence& sequence, int64_t tokens, bool may_take);
  void AddRow(Sequence& sequence, int64_t tokens);
  void AddBlocks(Sequence& sequence, bool reset, uint32_t* num_new_blocks,
                 cluster::v1::StepPlan& plan) const;
  void AddReset(Sequence& sequence, int row, cluster::v1::StepPlan& plan) const;

  Scheduler::State& state_;
  const SchedulerOptions& options_;
  GroupState& group_;
  const absl::Time now_;
  Sequence* protected_ = nullptr;
  PlanInFlight next_;
  std::vector<BlockCopy> copies_;
  int64_t tokens_left_ = 0;
  int64_t outputs_left_ = 0;  // rows of logits
  bool decodes_ = false;      // running streams want their next token
  bool has_prefill_ = false;  // among the chosen rows
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_PLAN_BUILDER_H_
