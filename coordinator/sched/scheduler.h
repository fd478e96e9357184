// Decides what every group computes next. Pure and single-threaded: events in, plans and updates
// out, no I/O, no clock of its own, no dependence on hash-map order. There are no phases: every
// sequence wants num_tokens - num_computed_tokens, under one token budget per step.
//
// Plans overlap: while a group computes one, the next is already on its way and takes its input
// tokens from it on the device. What a sequence has not got room for is taken from another one,
// which waits and is computed again.

#ifndef TESSERA_COORDINATOR_SCHED_SCHEDULER_H_
#define TESSERA_COORDINATOR_SCHED_SCHEDULER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "coordinator/sched/step_cost.h"
#include "coordinator/sched/work.h"
#include "models/model_spec.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

struct SchedulerModel {
  int64_t context_max = 0;  // tokens
  std::vector<KvGroup> kv_groups;
  // Sequences of more tokens turn their positions by other factors, all of them (models/rotary.h):
  // one that grows beyond is computed again from its beginning. 0: none does.
  int64_t rope_switch = 0;
  // What else a block's content depends on: weights, adapter, KV dtype. Enters every block's hash.
  std::string cache_salt = {};
};

struct SchedulerOptions {
  uint64_t term = 1;
  int64_t block_size = 16;      // tokens
  int64_t tokens_max = 2048;    // of one step, >= rows_max
  int64_t rows_max = 256;       // of one step; also how many sequences run on a group
  int64_t waiting_max = 1024;   // requests, waiting; beyond: RESOURCE_EXHAUSTED
  int64_t chunk_max = 512;      // prompt tokens of one sequence in one step
  int plans_in_flight_max = 2;  // per group: one that runs, others queued on the ranks behind it
  bool prefix_cache = true;
  // A step that carries running streams takes as many prompt tokens as it is predicted to bear
  // within this time, but at least one block. Infinite: tokens_max and chunk_max alone decide.
  absl::Duration inter_token_target = absl::InfiniteDuration();
  // A waiting request gains one step of priority per this time, up to the highest that waits.
  absl::Duration priority_ageing = absl::Seconds(10);
  absl::Duration heartbeat_interval = absl::Milliseconds(500);  // empty plan to an idle group
  std::vector<SchedulerModel> models;                           // index = Request::model
};

struct GroupStats {
  uint32_t group = 0;
  uint32_t model = 0;
  bool ready = false;
  uint64_t steps = 0;                  // answered, of all its epochs, heartbeats included
  int64_t running = 0;                 // sequences
  std::vector<int64_t> blocks_total;   // per KvGroup
  std::vector<int64_t> blocks_free;    // held by no sequence, cached ones included
  std::vector<int64_t> blocks_cached;  // of the free ones: with content a later prompt may hit
  absl::Time last_progress;            // last StepDone or GroupReady
  StepForecast forecast;
};

struct ModelStats {
  int64_t waiting = 0;         // requests and preempted sequences
  int64_t waiting_tokens = 0;  // that those owe
  int64_t running = 0;         // sequences
  // Tokens that the running sequence nearest to its limit may still draw.
  int64_t remaining_min = 0;
  // Since the start:
  uint64_t computed_tokens = 0;    // by rows that were answered, whatever became of them
  uint64_t recomputed_tokens = 0;  // of these: computed before, lost by preemption or with a group
  uint64_t overrun_tokens = 0;     // of these: past a sequence's end
  uint64_t prefix_query_tokens = 0;  // looked up in the prefix cache at admission
  uint64_t prefix_hit_tokens = 0;
  uint64_t preemptions = 0;
  // Lately, per second in which a group computed; 0: not known yet.
  double tokens_per_second = 0;   // computed
  double choices_per_second = 0;  // that ended
};

struct SchedulerStats {
  int64_t waiting = 0;
  int64_t running = 0;
  bool draining = false;
  std::vector<ModelStats> models;  // index = Request::model
  std::vector<GroupStats> groups;
};

// What a request has used when it has ended and its last row is answered: nothing comes after it.
// One per request that was applied, rejected ones included.
struct ClosedAccount {
  RequestId request = 0;
  Work work;
};

// What a tenant has used of a model's groups since the start.
struct TenantWork {
  uint32_t model = 0;
  std::string tenant;
  Work work;
};

class Scheduler {
 public:
  struct State;  // private to coordinator/sched: see scheduler_state.h

  explicit Scheduler(SchedulerOptions options);
  ~Scheduler();

  void Apply(const Event& event, absl::Time now);
  // Plans for every group that can take one now; also ends requests whose deadline has passed.
  std::vector<cluster::v1::StepPlan> Schedule(absl::Time now);
  // What there is to tell since the last call, in order, in place of what `updates` held; its
  // memory is used for the next ones.
  void TakeUpdates(std::vector<RequestUpdate>& updates);
  // The accounts that were closed since the last call; each comes with or after the terminal
  // update.
  std::vector<ClosedAccount> TakeAccounts();
  // Looks at everyone who runs: to be asked now and then. What stop strings may still cut off is
  // not in it yet; when all accounts are closed it is their sum.
  std::vector<TenantWork> WorkOfTenants();
  // GPU-seconds of a group that were shared out over rows, of all its epochs.
  double WorkOfGroup(uint32_t group) const;
  SchedulerStats Stats() const;
  // When Schedule wants to be called even if nothing happens (deadlines, heartbeats).
  absl::Time NextWakeup() const;
  // The first broken invariant of tables, reference counts, budgets and queues. For tests and the
  // simulator; looks at everything.
  absl::Status Validate() const;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_SCHEDULER_H_
