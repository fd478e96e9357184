// The life of workers and groups: who has joined, which ranks they are, when a group is ready, when
// it is lost. A pure state machine: messages and time in, messages, events and notices out. It does
// no I/O and has no clock, so the simulator runs the same code. One caller at a time (the Cluster's
// mutex).

#ifndef TESSERA_COORDINATOR_CLUSTER_GROUP_MANAGER_H_
#define TESSERA_COORDINATOR_CLUSTER_GROUP_MANAGER_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/cluster/notice.h"
#include "coordinator/sched/event.h"
#include "models/memory_plan.h"
#include "models/model_spec.h"
#include "tessera/cluster/v1/cluster.pb.h"

namespace tessera {

inline constexpr size_t kWorkersMax = 1024;
inline constexpr size_t kCommBlobBytesMax = 1 << 20;
inline constexpr size_t kWorkerNameBytesMax = 256;
// A group that loads and of which no rank says anything about it for so long starts again. Ranks
// that read a checkpoint report several times a second.
inline constexpr absl::Duration kLoadSilenceMax = absl::Minutes(5);

// So long after a loss the survivors wait for the lost ranks to come back, before another group may
// take them: it would only pass the loss on.
inline constexpr absl::Duration kReturnGrace = absl::Seconds(30);

// One model that groups are formed for.
struct ModelTarget {
  std::string name;
  std::string dir_name;  // last component of the directory; workers look it up under --model-root
  std::string manifest_digest;
  ModelSpec spec;
  MemoryRequest memory;          // tp, dtypes, step limits; the budget is filled in per group
  uint64_t memory_max = 0;       // bytes one rank may use at most; 0: what its host has free
  std::string load_format = "";  // of Assign
  bool deterministic = false;    // of Assign
  bool eager = false;            // of Assign
  bool solo = false;             // rank 0 of memory.tp alone, see COMM_SOLO

  int workers() const { return solo ? 1 : memory.tp; }
};

struct GroupManagerOptions {
  uint64_t term = 1;
  absl::Duration heartbeat_interval = absl::Milliseconds(250);
  int heartbeats_missed_max = 4;
  std::vector<ModelTarget> models;  // one group each, group index = model index
};

// What the caller has to carry out, in order.
struct GroupActions {
  struct Send {
    uint64_t worker = 0;
    cluster::v1::CoordinatorMessage message;
  };
  struct Disconnect {
    uint64_t worker = 0;
    absl::Status reason;
  };
  std::vector<Send> sends;
  std::vector<Disconnect> disconnects;
  std::vector<Event> events;
  std::vector<Notice> notices;
};

class GroupManager {
 public:
  explicit GroupManager(GroupManagerOptions options);

  // A worker's first message; returns its id. FAILED_PRECONDITION names both protocol versions,
  // RESOURCE_EXHAUSTED the limit on workers, INVALID_ARGUMENT a damaged hello.
  absl::StatusOr<uint64_t> Join(const cluster::v1::Hello& hello, absl::Time now,
                                GroupActions& actions);
  void OnMessage(uint64_t worker, const cluster::v1::WorkerMessage& message, absl::Time now,
                 GroupActions& actions);
  void OnLeft(uint64_t worker, const absl::Status& reason, absl::Time now, GroupActions& actions);
  // A worker opened its step stream; refused unless it is assigned under that epoch.
  absl::Status OnStepStream(uint64_t worker, uint64_t epoch, absl::Time now, GroupActions& actions);
  // A step of this group's epoch failed or did not come back in time.
  void OnStepFailed(uint32_t group, uint64_t epoch, const absl::Status& reason, absl::Time now,
                    GroupActions& actions);
  // Missed heartbeats, loads that hang. Call a few times per heartbeat interval.
  void Tick(absl::Time now, GroupActions& actions);

  struct RankRef {
    uint32_t group = 0;
    uint32_t rank = 0;
    uint64_t epoch = 0;
  };
  // The rank a worker holds, if any.
  absl::StatusOr<RankRef> RankOf(uint64_t worker) const;
  // Workers of a ready group in rank order; empty unless it is ready under that epoch.
  const std::vector<uint64_t>& ReadyRanks(uint32_t group, uint64_t epoch) const;
  const GroupManagerOptions& options() const { return options_; }

 private:
  struct Worker {
    uint64_t id = 0;
    cluster::v1::Hello hello;
    absl::Time last_heard;
    bool assigned = false;
    uint32_t group = 0;  // the present or last assignment
    uint32_t rank = 0;
    uint64_t epoch = 0;  // 0: never assigned
    std::string comm_blob;
    bool ready = false;
    bool step_stream = false;
    std::string numerics_class;
  };
  enum class GroupState { kJoining, kLoading, kReady };
  struct Group {
    GroupState state = GroupState::kJoining;
    uint64_t epoch = 0;           // of the present or last life
    std::vector<uint64_t> ranks;  // worker ids, while loading or ready
    std::vector<uint32_t> num_blocks;
    absl::Time formed_at;
    absl::Time load_news;   // when a rank last said something about its loading
    int failed_starts = 0;  // in a row
    absl::Time not_before = absl::InfinitePast();  // of the next start
    std::vector<std::string> seats;                // worker names by rank, of the last life
    absl::Time reserved_until = absl::InfinitePast();

    bool HasSeat(const std::string& name) const {
      return std::find(seats.begin(), seats.end(), name) != seats.end();
    }
  };

  // Gives free workers to groups that lack some, and starts those that are complete.
  void FormGroups(absl::Time now, GroupActions& actions);
  std::vector<uint64_t> PickWorkers(uint32_t group, size_t count, absl::Time now) const;
  // Another group has lost a rank lately, and the worker held one there, or has the name of one
  // that did.
  bool IsReserved(const Worker& worker, uint32_t except, absl::Time now) const;
  absl::StatusOr<MemoryPlan> PlanGroup(const ModelTarget& model,
                                       const std::vector<uint64_t>& workers,
                                       MemoryRequest& request) const;
  void Assign(uint32_t group, const std::vector<uint64_t>& workers, const MemoryRequest& request,
              const MemoryPlan& plan, absl::Time now, GroupActions& actions);
  void RelayCommBlobs(const Group& group, GroupActions& actions);
  void CheckReady(uint32_t group, absl::Time now, GroupActions& actions);
  // Ends the group's epoch: survivors are unassigned and become free again.
  void Lose(uint32_t group, const absl::Status& reason, absl::Time now, GroupActions& actions);
  void OnFailed(Worker& worker, const cluster::v1::Failed& failed, absl::Time now,
                GroupActions& actions);

  const GroupManagerOptions options_;
  uint64_t next_worker_id_ = 1;
  // One count for all groups: a worker that changes groups can never take one epoch for another.
  uint64_t last_epoch_ = 0;
  std::map<uint64_t, Worker> workers_;
  std::vector<Group> groups_;
  const std::vector<uint64_t> no_ranks_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_CLUSTER_GROUP_MANAGER_H_
