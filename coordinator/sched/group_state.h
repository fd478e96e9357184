// One group as the scheduler sees it: its epoch, its KV cache, who runs there and what is in
// flight. It outlives its epochs; what belongs to one is dropped when the group is lost. Engine
// thread only.

#ifndef TESSERA_COORDINATOR_SCHED_GROUP_STATE_H_
#define TESSERA_COORDINATOR_SCHED_GROUP_STATE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/kv/block_manager.h"
#include "coordinator/sched/sequence.h"

namespace tessera {

// A row of the plan in flight.
struct PlannedRow {
  Sequence* sequence = nullptr;
  int64_t num_tokens = 0;  // computed by this row, >= 1
  bool samples = false;    // the row reaches the last token: the next one comes back
};

struct GroupState {
  uint32_t id = 0;
  uint32_t model = 0;

  // Of the current epoch.
  uint64_t epoch = 0;
  bool ready = false;
  std::unique_ptr<BlockManager> blocks;  // kept after a loss, for its sizes only
  std::vector<Sequence*> running;        // in order of admission
  int64_t owed_tokens = 0;               // sum of num_owed_tokens over `running`: the load
  uint64_t last_step = 0;                // step id of the last plan
  bool in_flight = false;                // plan `last_step` is not answered yet
  std::vector<PlannedRow> planned;       // its rows
  std::vector<uint64_t> finished_ids;    // sequences that the ranks may forget, not told yet
  // Ended while a planned row points at them; freed when that plan is over.
  std::vector<std::unique_ptr<Sequence>> ended;

  // For ever.
  uint64_t steps = 0;         // answered, of all epochs, heartbeats included
  absl::Time last_plan_time;  // or when the group became ready
  absl::Time last_progress = absl::InfinitePast();
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_GROUP_STATE_H_
