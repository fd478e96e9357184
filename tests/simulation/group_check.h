// The life of groups, watched from outside: one is lost only when something went wrong, and soon
// when a rank has fallen silent; one that is idle is kept in touch with.

#ifndef TESSERA_TESTS_SIMULATION_GROUP_CHECK_H_
#define TESSERA_TESTS_SIMULATION_GROUP_CHECK_H_

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "coordinator/sim/worker.h"
#include "tessera/cluster/v1/cluster.pb.h"
#include "tessera/cluster/v1/step.pb.h"
#include "tests/simulation/violations.h"

namespace tessera::simulation {

class GroupCheck {
 public:
  struct Bounds {
    absl::Duration heartbeat;  // from one plan of an idle group to the next
    absl::Duration silence;    // of a rank, until its group is lost; with all delays
    absl::Duration turn;       // until the engine's next turn
  };

  GroupCheck(const Bounds& bounds, Violations& violations)
      : bounds_(bounds), violations_(violations) {}

  // The worker serves under this assignment from now on; it outlives this.
  void AddRank(const cluster::v1::Assign& assign, const sim::Worker& worker) {
    ranks_[assign.epoch()].push_back(&worker);
  }
  // `faults`: something went wrong before in this life.
  void Observe(const Event& event, bool faults, absl::Time now);
  void Observe(const cluster::v1::StepPlan& plan, absl::Time now);
  void AfterTurn(absl::Time now);

 private:
  struct Group {
    uint64_t epoch = 0;
    std::deque<uint64_t> under_way;  // steps
    absl::Time last_plan;            // or when it became ready
    absl::Time idle_since;           // when under_way is empty
  };

  void CheckHeartbeat(uint32_t id, const Group& group, absl::Time now);
  void Violate(uint32_t group, const std::string& what);

  const Bounds bounds_;
  Violations& violations_;
  std::map<uint64_t, std::vector<const sim::Worker*>> ranks_;  // by epoch
  std::map<uint32_t, Group> groups_;                           // that are ready
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_GROUP_CHECK_H_
