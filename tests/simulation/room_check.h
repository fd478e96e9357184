// Nobody waits where there is room for everybody: while all open requests of a model, each as long
// as it may become, fit into its group beside each other, none of them may still wait after a few
// steps. Finds room that is never given back, and an admission that is too careful.

#ifndef TESSERA_TESTS_SIMULATION_ROOM_CHECK_H_
#define TESSERA_TESTS_SIMULATION_ROOM_CHECK_H_

#include <cstdint>
#include <map>

#include "coordinator/sched/scheduler.h"
#include "tests/simulation/request_book.h"
#include "tests/simulation/violations.h"

namespace tessera::simulation {

class RoomCheck {
 public:
  RoomCheck(const SchedulerOptions& options, const RequestBook& book, Violations& violations)
      : options_(options), book_(book), violations_(violations) {}

  // After a turn.
  void Check(const SchedulerStats& stats);

 private:
  // The requests of a model that the scheduler was told of.
  struct Requests {
    int64_t open = 0;
    int64_t ended = 0;
    int64_t choices = 0;  // of the open ones
    int64_t tokens = 0;   // that those can hold at most
    bool operator==(const Requests&) const = default;
  };
  struct Wait {
    Requests requests;   // the same all the time
    uint64_t steps = 0;  // that the group had answered when it began
  };

  Requests Count(uint32_t model) const;
  bool HaveRoom(const Requests& requests, const GroupStats& group) const;

  const SchedulerOptions& options_;
  const RequestBook& book_;
  Violations& violations_;
  std::map<uint32_t, Wait> waits_;  // by group, while requests wait that need not
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_ROOM_CHECK_H_
