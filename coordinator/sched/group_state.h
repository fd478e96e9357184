// One group as the scheduler sees it: its epoch, its KV cache, who runs there and what is in
// flight. It outlives its epochs; what belongs to one is dropped when the group is lost. Engine
// thread only.

#ifndef TESSERA_COORDINATOR_SCHED_GROUP_STATE_H_
#define TESSERA_COORDINATOR_SCHED_GROUP_STATE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/kv/block_manager.h"
#include "coordinator/sched/sequence.h"
#include "coordinator/sched/step_cost.h"

namespace tessera {

// A row of a plan in flight. One per sequence and step: a quarter of a cache line.
struct PlannedRow {
  Sequence* sequence = nullptr;
  int32_t num_tokens = 0;           // computed by this row, >= 1
  uint16_t num_scored = 0;          // prompt positions whose log probability comes back
  uint8_t num_samples = 0;          // drawn behind its last token
  bool wants_logprobs : 1 = false;  // of what is drawn
  bool is_plain : 1 = false;        // one token computed, one drawn, nothing else comes back
};
static_assert(sizeof(PlannedRow) == 16);

inline constexpr int64_t kPlanRowsMax = 65535;  // scored ones are rows of logits too
static_assert(kChoicesMax <= 255);

struct PlanInFlight {
  uint64_t step = 0;
  std::vector<PlannedRow> rows;
  double tokens = 0;    // computed by all rows
  double attended = 0;  // see step_cost.h
};

struct GroupState {
  uint32_t id = 0;
  uint32_t model = 0;

  // Of the current epoch.
  uint64_t epoch = 0;
  bool ready = false;
  std::unique_ptr<BlockManager> blocks;  // kept after a loss, for its sizes only
  bool has_windows = false;              // some KvGroup keeps a window only
  std::vector<Sequence*> running;        // in order of admission; those that leave included
  bool has_left = false;                 // some of them do not run any more
  int64_t num_leaving = 0;               // of them
  int64_t num_slots = 0;                 // sum of num_slots over `running`
  int64_t owed_tokens = 0;               // sum of num_owed_tokens over `running`: the load
  uint64_t last_step = 0;                // step id of the last plan
  std::deque<PlanInFlight> in_flight;    // oldest first
  std::vector<PlannedRow> spare_rows;    // of a plan that was answered, to be filled again
  std::vector<uint64_t> finished_ids;    // sequences that the ranks may forget, not told yet

  // For ever.
  StepCost cost;
  StepCost::Terms cost_terms;  // of a few steps ago: they change slowly and take time to work out
  StepForecast forecast;       // by these terms
  double work_seconds = 0;     // GPU-seconds, shared out over rows
  uint64_t steps = 0;          // answered, of all epochs, heartbeats included
  absl::Time last_plan_time;   // or when the group became ready
  absl::Time last_progress = absl::InfinitePast();

  bool IsIdle() const { return running.empty() && in_flight.empty(); }
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_GROUP_STATE_H_
