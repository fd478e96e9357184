// Decides what every group computes next. Pure and single-threaded: events in, plans and updates
// out, no I/O, no clock of its own, no dependence on hash-map order. There are no phases: every
// sequence wants num_tokens - num_computed_tokens, under one token budget per step.
//
// For now a group has at most one plan in flight, and a sequence is admitted only when the blocks
// of its whole possible length are free, so that nothing running ever has to give blocks back.

#ifndef TESSERA_COORDINATOR_SCHED_SCHEDULER_H_
#define TESSERA_COORDINATOR_SCHED_SCHEDULER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "models/model_spec.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

struct SchedulerModel {
  int64_t context_max = 0;  // tokens
  std::vector<KvGroup> kv_groups;
};

struct SchedulerOptions {
  uint64_t term = 1;
  int64_t block_size = 16;     // tokens
  int64_t tokens_max = 2048;   // of one step, >= rows_max
  int64_t rows_max = 256;      // of one step; also how many sequences run on a group
  int64_t waiting_max = 1024;  // requests, waiting; beyond: RESOURCE_EXHAUSTED
  int64_t chunk_max = 512;     // prompt tokens of one sequence in one step
  absl::Duration heartbeat_interval = absl::Milliseconds(500);  // empty plan to an idle group
  std::vector<SchedulerModel> models;                           // index = Request::model
};

struct GroupStats {
  uint32_t group = 0;
  uint32_t model = 0;
  bool ready = false;
  uint64_t steps = 0;                 // answered, of all its epochs, heartbeats included
  int64_t running = 0;                // sequences
  std::vector<int64_t> blocks_total;  // per KvGroup
  std::vector<int64_t> blocks_free;   // neither held nor promised to an admitted sequence
  absl::Time last_progress;           // last StepDone or GroupReady
};

struct ModelStats {
  int64_t waiting = 0;  // sequences
  int64_t running = 0;
};

struct SchedulerStats {
  int64_t waiting = 0;
  int64_t running = 0;
  bool draining = false;
  std::vector<ModelStats> models;  // index = Request::model
  std::vector<GroupStats> groups;
};

class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);
  ~Scheduler();

  void Apply(const Event& event, absl::Time now);
  // Plans for every group that can take one now; also ends requests whose deadline has passed.
  std::vector<cluster::v1::StepPlan> Schedule(absl::Time now);
  std::vector<RequestUpdate> TakeUpdates();
  SchedulerStats Stats() const;
  // When Schedule wants to be called even if nothing happens (deadlines, heartbeats).
  absl::Time NextWakeup() const;
  // CHECKs every invariant of tables, reference counts and budgets. For tests and the simulator.
  void CheckInvariants() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_SCHEDULER_H_
