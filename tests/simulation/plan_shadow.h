// Blocks seen from outside the scheduler: tables, writers and uses rebuilt from nothing but the
// plans, the answers and the ends of requests. Tells when a block is written that somebody else
// reads, when one changes hands while a plan that names it is under way, and when the scheduler's
// counts cannot be true.

#ifndef TESSERA_TESTS_SIMULATION_PLAN_SHADOW_H_
#define TESSERA_TESTS_SIMULATION_PLAN_SHADOW_H_

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "coordinator/sched/event.h"
#include "coordinator/sched/scheduler.h"
#include "tessera/cluster/v1/step.pb.h"
#include "tests/simulation/request_book.h"
#include "tests/simulation/violations.h"

namespace tessera::simulation {

class PlanShadow {
 public:
  PlanShadow(const SchedulerOptions& options, RequestBook& book, Violations& violations)
      : options_(options), book_(book), violations_(violations) {}

  // Before the scheduler applies it.
  void Observe(const Event& event);
  void Observe(const cluster::v1::StepPlan& plan);
  // After a turn.
  void CheckStats(const SchedulerStats& stats);
  // Nothing runs and nothing is under way: every block must be free.
  void CheckIdle(const SchedulerStats& stats);

 private:
  struct Sequence {
    std::string request_id;
    uint32_t choice = 0;
    std::vector<std::vector<uint32_t>> tables;  // [KvGroup]
    int64_t start = 0;                          // of its last row
    int64_t oldest_start = 0;                   // of its rows under way
    int64_t end = 0;
    uint64_t last_step = 0;  // 0: no row yet
  };
  struct Block {
    uint64_t writer = 0;   // sequence
    uint64_t written = 0;  // step
  };
  // Who names a block in one plan.
  struct Named {
    uint64_t sequence = 0;  // 0: nobody
    bool by_several = false;
    bool held = false;  // also blocks that its rows do not see, but that go with them
  };
  struct Pool {
    int64_t window = 0;  // 0: none
    std::vector<Block> blocks;
  };
  struct Plan {
    uint64_t step = 0;
    std::vector<uint64_t> sequences;
    std::vector<std::vector<Named>> named;  // [KvGroup][block]
  };
  struct Group {
    uint64_t epoch = 0;
    bool ready = false;
    std::vector<Pool> pools;
    std::map<uint64_t, Sequence> sequences;
    std::deque<Plan> under_way;
  };

  bool TakeRow(const cluster::v1::StepPlan& plan, int row, bool is_reset, int& next_block,
               Group& group);
  void CheckKept(uint64_t id, const Sequence& sequence, const Group& group);
  void Name(uint64_t id, const Sequence& sequence, const Group& group, Plan& plan) const;
  void CheckWrites(uint64_t id, const Sequence& sequence, const Group& group);
  void MarkWrites(uint64_t id, const Sequence& sequence, uint64_t step, Group& group);
  void CheckCopies(const cluster::v1::StepPlan& plan, const std::vector<bool>& is_reset,
                   const Group& group);
  // The first block that a query at `position` or later sees.
  int64_t LengthMax(const Request& request) const;
  int64_t FirstVisible(const Pool& pool, int64_t position) const;
  void CheckGroupStats(const GroupStats& seen, const Group& group);
  // Sequences of the newest plan under way that are all of those that run; empty when others run
  // too, or that cannot be told.
  std::vector<uint64_t> AllRunning(const GroupStats& seen, const Group& group);
  void Violate(const std::string& what);

  const SchedulerOptions& options_;
  RequestBook& book_;
  Violations& violations_;
  std::map<uint32_t, Group> groups_;
  std::string where_;  // for messages
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_PLAN_SHADOW_H_
