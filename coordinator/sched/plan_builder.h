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

// The columns of a plan that grow with its rows: room for all, `rows` and `sources` of them filled.
struct RowColumns {
  RowColumns(cluster::v1::StepPlan& plan, int rows_max, int kv_groups);
  // Cuts them to what is filled.
  void Close(cluster::v1::StepPlan& plan) const;

  const int kv_groups;
  int rows = 0;
  int sources = 0;  // rows that take their token from the plan before
  uint64_t* sequence;
  uint32_t* num_new_tokens;
  uint32_t* start_position;
  int* output;
  uint32_t* num_choices;
  int* token_source;
  uint32_t* num_new_blocks;  // [row][KvGroup]
  uint64_t* source_step;     // [source]
  uint32_t* source_row;      // [source]
};

class PlanBuilder {
 public:
  PlanBuilder(Scheduler::State& state, GroupState& group, absl::Time now,
              cluster::v1::StepPlan& plan);

  // Chooses rows and packs them one by one. False when there is nothing to compute: nothing has
  // changed then, except that sequences may have been made to leave.
  bool AddRows();
  // Completes the plan, which is in flight from now on. Without rows it is the heartbeat.
  void Finish();

 private:
  void TryProtected();
  // Tokens that the sequence wants in this step, 0 for none.
  static int64_t Wanted(const Sequence& sequence);
  void TryDecode(Sequence& sequence);
  void TryPrefill(Sequence& sequence);
  int64_t ChunkOf(const Sequence& sequence) const;
  // Blocks for `tokens` more tokens; takes them from others when `may_take`.
  bool Hold(Sequence& sequence, int64_t tokens, bool may_take);
  // The sequence computes so many tokens, for which it has blocks (plan_columns.cc).
  void AddRow(Sequence& sequence, int64_t tokens);
  // AddRow for every running sequence of which nothing but its next token is to be said. The
  // others, in order. Such rows take nothing from anybody.
  void AddNextTokens(std::vector<Sequence*>& others);
  void AddTokens(Sequence& sequence, int64_t tokens);
  void AddBlocks(Sequence& sequence, bool reset);
  void AddReset(Sequence& sequence);

  Scheduler::State& state_;
  const SchedulerOptions& options_;
  GroupState& group_;
  const absl::Time now_;
  cluster::v1::StepPlan& plan_;
  RowColumns columns_;
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
