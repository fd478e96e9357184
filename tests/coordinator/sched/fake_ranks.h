// The ranks of one group in one epoch, without arithmetic: KV slots remember which token they hold
// and the hash of everything before it, attention walks the block tables and verifies them,
// sampling is the symbolic model. Plans pass the rank's real guard first, then rules that only an
// observer can check.
//
// Whatever is wrong goes to `violations`; nothing here ends the test by itself.

#ifndef TESSERA_TESTS_COORDINATOR_SCHED_FAKE_RANKS_H_
#define TESSERA_TESTS_COORDINATOR_SCHED_FAKE_RANKS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "coordinator/sched/event.h"
#include "coordinator/sched/scheduler.h"
#include "tessera/cluster/v1/step.pb.h"
#include "worker/plan_check.h"

namespace tessera::testing {

class FakeRanks {
 public:
  // `num_ranks` answers per step, all alike.
  FakeRanks(const GroupReady& ready, const SchedulerOptions& options, int num_ranks,
            std::vector<std::string>& violations);

  // Checks and computes the plan; at most one at a time.
  void Submit(const cluster::v1::StepPlan& plan);
  bool in_flight() const { return done_.has_value(); }
  // The answer to the plan in flight.
  StepDone Finish();

  uint64_t epoch() const { return epoch_; }
  // Distinct blocks of a KvGroup named by the rows of the plan in flight.
  int64_t NumBlocksInFlight(int kv_group) const;
  // Requests whose sequences the ranks know, by Request::public_id, in order of their first row.
  const std::vector<std::string>& first_rows() const { return first_rows_; }
  int64_t num_sequences() const { return static_cast<int64_t>(sequences_.size()); }

 private:
  struct Slot {
    int32_t token = -1;
    uint64_t state = 0;  // of the symbolic model, after this token
  };
  struct Params {
    float temperature = 0;
    uint64_t seed = 0;
  };

  void CheckIdentity(const cluster::v1::StepPlan& plan);
  void CheckRules(const cluster::v1::StepPlan& plan);
  void TakeBlocks(const cluster::v1::StepPlan& plan);
  void WriteRow(const SequenceState& sequence, int64_t start, const int32_t* tokens, int64_t count);
  int32_t Attend(uint64_t id, const SequenceState& sequence);
  Slot& At(int kv_group, const SequenceState& sequence, int64_t position);
  void Violate(const std::string& what);

  const uint64_t term_;
  const uint32_t group_;
  const uint64_t epoch_;
  const int64_t chunk_max_;
  const int num_ranks_;
  const StepLimits limits_;
  std::vector<std::string>& violations_;

  uint64_t last_step_ = 0;
  SequenceMap sequences_;
  std::map<uint64_t, Params> params_;  // by sequence
  std::set<uint64_t> used_ids_;        // ever, in this epoch
  std::set<uint64_t> owes_one_;        // sampled in the last step: must have a row in the next
  std::vector<std::string> first_rows_;
  std::vector<std::vector<Slot>> slots_;             // [KvGroup][block * block_size + offset]
  std::vector<std::set<int32_t>> in_flight_blocks_;  // [KvGroup]
  std::optional<StepDone> done_;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_COORDINATOR_SCHED_FAKE_RANKS_H_
