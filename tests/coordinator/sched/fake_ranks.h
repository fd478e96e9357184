// The ranks of one group in one epoch, without arithmetic: KV slots remember which token they hold
// and the hash of everything before it, attention walks the block tables and verifies them,
// sampling is the symbolic model. Plans are computed as they come; answers wait until they are
// asked for, so that several plans can be in flight.
//
// Whatever is wrong goes to `violations`; nothing here ends the test by itself. The simulation has
// ranks that check much more; these are for tests that look at single plans.

#ifndef TESSERA_TESTS_COORDINATOR_SCHED_FAKE_RANKS_H_
#define TESSERA_TESTS_COORDINATOR_SCHED_FAKE_RANKS_H_

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "coordinator/sched/event.h"
#include "coordinator/sched/scheduler.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera::testing {

class FakeRanks {
 public:
  // `num_ranks` answers per step, all alike.
  FakeRanks(const GroupReady& ready, const SchedulerOptions& options, int num_ranks,
            std::vector<std::string>& violations);

  // Checks and computes the plan.
  void Submit(const cluster::v1::StepPlan& plan);
  bool in_flight() const { return !answers_.empty(); }
  // The answer to the oldest plan in flight.
  StepDone Finish();
  // What a step takes, for StepResult::step_ns: seconds per step and per computed token.
  void SetCost(double per_step, double per_token) {
    seconds_per_step_ = per_step;
    seconds_per_token_ = per_token;
  }

  // Requests whose sequences the ranks know, by Request::public_id, in order of their first row.
  const std::vector<std::string>& first_rows() const { return first_rows_; }
  int64_t tokens_computed() const { return tokens_computed_; }  // since the start

 private:
  struct Slot {
    int32_t token = -1;
    uint64_t state = 0;  // of the symbolic model, after this token
  };
  struct Known {
    std::vector<std::vector<uint32_t>> tables;  // [KvGroup][block]
    int64_t num_computed = 0;
    int64_t num_prompt = 0;
    uint32_t choice = 0;
    cluster::v1::SamplingParams sampling;
    std::vector<int32_t> history;  // where the reset gave one
  };
  // What the step before sampled: by row.
  struct Sampled {
    uint64_t sequence = 0;
    std::vector<int32_t> tokens;
  };

  void Reset(const cluster::v1::StepPlan& plan);
  void TakeBlocks(const cluster::v1::StepPlan& plan);
  void Copy(const cluster::v1::StepPlan& plan);
  void WriteRows(const cluster::v1::StepPlan& plan);
  void Answer(const cluster::v1::StepPlan& plan, cluster::v1::StepResult& result);
  void WriteToken(const Known& sequence, int64_t position, int32_t token);
  void Score(int32_t token, uint32_t top, uint64_t state, cluster::v1::StepResult& result) const;
  // The state of the symbolic model after `count` tokens, read through the tables.
  uint64_t Attend(const Known& sequence, int64_t count);
  Slot& At(size_t kv_group, const Known& sequence, int64_t position);
  int64_t FirstVisible(size_t kv_group, int64_t position) const;
  void Violate(const std::string& what);

  const uint64_t term_;
  const uint32_t group_;
  const uint64_t epoch_;
  const SchedulerOptions options_;
  const std::vector<KvGroup> kv_groups_;
  const int num_ranks_;
  std::vector<std::string>& violations_;

  uint64_t last_step_ = 0;
  std::map<uint64_t, Known> sequences_;
  std::vector<Sampled> last_sampled_;  // by row of the last step
  std::vector<Sampled> sampled_;       // of the step being computed
  std::vector<std::string> first_rows_;
  std::vector<std::vector<Slot>> slots_;  // [KvGroup][block * block_size + offset]
  std::deque<StepDone> answers_;
  int64_t tokens_computed_ = 0;
  double seconds_per_step_ = 0;
  double seconds_per_token_ = 0;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_COORDINATOR_SCHED_FAKE_RANKS_H_
