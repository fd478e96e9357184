// One rank in one epoch, without arithmetic: KV slots remember which token they hold and the hash
// of everything before it, attention walks the block tables and verifies every position, sampling
// is the symbolic model. Follows step.proto to the letter and reports whatever a plan does that the
// contract does not allow.
//
// What it computes is right if and only if the whole history was; what it reports says where it
// first was not.

#ifndef TESSERA_TESTS_SIMULATION_SYMBOLIC_RANK_H_
#define TESSERA_TESTS_SIMULATION_SYMBOLIC_RANK_H_

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "coordinator/sched/scheduler.h"
#include "tessera/cluster/v1/cluster.pb.h"
#include "tessera/cluster/v1/step.pb.h"
#include "tests/simulation/symbolic_model.h"
#include "tests/simulation/violations.h"

namespace tessera::simulation {

// The token that truly stands at a position of a request's choice; -1 where that is not known.
using TrueToken =
    std::function<int32_t(const std::string& request_id, uint32_t choice, int64_t position)>;

class SymbolicRank {
 public:
  // References must outlive the rank.
  SymbolicRank(const cluster::v1::Assign& assign, const SchedulerModel& model,
               const TrueToken& true_token, Violations& violations);

  // Columns of the result; identity and accounts are the caller's.
  cluster::v1::StepResult Execute(const cluster::v1::StepPlan& plan);
  int64_t num_sequences() const { return static_cast<int64_t>(sequences_.size()); }

 private:
  struct Slot {
    int32_t token = -1;
    bool long_rope = false;
    uint64_t state = 0;  // of the symbolic model, after this token
  };
  struct Pool {
    int64_t num_blocks = 0;
    int64_t window = 0;       // 0: none
    std::vector<Slot> slots;  // [block * block_size + offset]
  };
  struct Sequence {
    std::string request_id;
    uint32_t choice = 0;
    DrawParams params;
    std::vector<std::vector<uint32_t>> tables;  // [KvGroup]
    int64_t num_computed = 0;
    bool long_rope = false;
    std::vector<int32_t> history;  // when the parameters read it
  };
  // What a row of the last step sampled, for LAST_SAMPLED.
  struct Sample {
    uint64_t sequence = 0;
    uint32_t num_choices = 0;
    int32_t token = -1;
  };
  // A row being executed.
  struct Row {
    uint64_t id = 0;
    Sequence* sequence = nullptr;
    int64_t start = 0;
    int64_t end = 0;
    std::vector<int32_t> tokens;
    std::vector<uint64_t> states;  // after each position of [start, end)
  };

  bool CheckColumns(const cluster::v1::StepPlan& plan);
  void CopyBlocks(const cluster::v1::StepPlan& plan);
  void ApplyResets(const cluster::v1::StepPlan& plan, std::vector<bool>& is_reset);
  void CheckHistory(const Sequence& sequence, int64_t known);
  bool TakeBlocks(const cluster::v1::StepPlan& plan, int row, int& next_block);
  bool TakeTokens(const cluster::v1::StepPlan& plan, int index, int& next_token, int& next_source,
                  Row& row);
  void CheckRope(const Row& row, bool samples);
  void Write(Row& row);
  void Attend(const Row& row);
  void CheckSlots(const Pool& pool, const std::vector<uint32_t>& table, const Row& row,
                  int64_t first);
  void ScorePrompt(const Row& row, cluster::v1::StepResult& result, uint32_t& scored);
  void Sampled(const cluster::v1::StepPlan& plan, int index, const Row& row,
               cluster::v1::StepResult& result, uint32_t& scored);
  void AddScore(const TokenLogprobs& score, cluster::v1::StepResult& result);
  Slot* At(Pool& pool, const std::vector<uint32_t>& table, int64_t position);
  void Violate(const std::string& what);

  const uint64_t epoch_;
  const uint32_t group_;
  const uint32_t rank_;
  const int64_t block_size_;
  const int64_t rows_max_;
  const int64_t tokens_max_;
  const int64_t context_max_;
  const int64_t rope_switch_;
  const TrueToken& true_token_;
  Violations& violations_;

  uint64_t step_ = 0;
  std::vector<Pool> pools_;  // [KvGroup]
  absl::flat_hash_map<uint64_t, Sequence> sequences_;
  std::set<uint64_t> finished_;
  std::vector<Sample> last_samples_;  // by row of the last step
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_SYMBOLIC_RANK_H_
