// Which groups will not come back: told which workers never will, and by notices which groups are
// ready. For a coordinator whose workers are all started by one launcher, `ranks` per group; where
// others may join there is always hope. One caller at a time (the StatusBoard's mutex).

#ifndef TESSERA_COORDINATOR_LOST_GROUPS_H_
#define TESSERA_COORDINATOR_LOST_GROUPS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/cluster/notice.h"
#include "coordinator/launcher_link.h"

namespace tessera {

class LostGroups {
 public:
  struct Change {
    uint32_t group = 0;
    absl::Status reason;  // UNAVAILABLE, for clients to read; OK: the group is ready after all
  };

  LostGroups(size_t groups, int ranks);

  // A group is lost for good when too few workers are left for it beside the ready ones, or when
  // it cannot be loaded again. In any order, as threads tell them.
  void Apply(const Notice& notice);
  void OnWorkerGone(const WorkerGone& gone);
  // Since the last call, in order.
  std::vector<Change> TakeChanges();

 private:
  struct Group {
    uint64_t ready_epoch = 0;  // the last that was ready, and the last that was lost
    uint64_t lost_epoch = 0;
    bool load_failed = false;
    bool is_lost = false;
    bool is_ready() const { return ready_epoch > lost_epoch; }
  };
  struct Seat {
    uint32_t group = 0;
    uint32_t rank = 0;
  };

  void Judge();
  std::string WhyTooFew(uint32_t group) const;

  const int64_t ranks_;
  std::vector<Group> groups_;
  std::map<std::string, Seat> seats_;  // the last rank that a worker held, by its name
  std::vector<WorkerGone> gone_;       // each name once; at most as many as workers
  std::vector<Change> changes_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LOST_GROUPS_H_
