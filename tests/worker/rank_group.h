// A whole group inside a test: tp ranks as threads over loopback, each with its own shard, cache,
// decoder and sampler. Takes rows of tokens, or plans, and gives logits over the whole vocabulary.

#ifndef TESSERA_TESTS_WORKER_RANK_GROUP_H_
#define TESSERA_TESTS_WORKER_RANK_GROUP_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kernels/ops.h"
#include "models/model_spec.h"
#include "worker/comm/communicator.h"
#include "worker/decoder.h"
#include "worker/kv_cache.h"
#include "worker/step_input.h"
#include "worker/weights.h"

namespace tessera {

// What a group does with a sequence that grows beyond the switch of its rotary factors; what a
// coordinator does, or a mistake.
enum class AtSwitch {
  kComputeAnew,
  kKeepShort,       // nothing
  kNewTokensAlone,  // keeps the keys that turned by the short factors
};

struct RankGroupOptions {
  int tp = 1;
  DType dtype = DType::kFloat32;  // of weights, activations and cache
  int64_t block_size = 16;
  int64_t tokens_max = 2048;
  int64_t context_max = 1024;
  uint32_t num_blocks = 1024;                            // of every KvGroup
  uint32_t shuffle_seed = 0;                             // order in which blocks are handed out
  std::function<void(ModelSpec&)> edit = nullptr;        // applied to the spec before loading
  std::function<void(Weights&)> edit_weights = nullptr;  // applied to every rank's once loaded
  // What every rank computes on and how ranks talk; null: the CPU, and loopback.
  std::function<absl::StatusOr<std::unique_ptr<Ops>>()> new_ops = nullptr;
  std::function<std::vector<std::unique_ptr<Communicator>>(const std::vector<Ops*>&,
                                                           absl::Duration)>
      new_comms = nullptr;
  bool deterministic = true;
  AtSwitch at_switch = AtSwitch::kComputeAnew;
  bool float8 = false;         // see WeightsOptions
  bool dummy_weights = false;  // see Checkpoint::WithoutWeights
};

// Tokens of one sequence that follow what it has.
struct RowTokens {
  uint64_t sequence = 0;
  std::vector<int32_t> tokens;
  // SequenceReset::long_rope; left open, by whether the sequence has more tokens than the switch.
  // Said at the first chunk of a long prompt, which is computed by the long factors from the start.
  std::optional<bool> long_rope = std::nullopt;
};

// What came of a plan.
struct PlanOutcome {
  std::vector<std::vector<float>> logits;  // [L][V], see StepInput::output_token
  std::vector<int32_t> drawn;              // one per entry of StepInput::sampling
};

class RankGroup {
 public:
  static absl::StatusOr<std::unique_ptr<RankGroup>> Load(const std::string& model_dir,
                                                         const RankGroupOptions& options);
  ~RankGroup();

  // One step. result[i][j]: logits [V] after rows[i].tokens[j]. A sequence that a row takes beyond
  // the switch is computed anew.
  std::vector<std::vector<std::vector<float>>> Step(const std::vector<RowTokens>& rows);
  // One step as an engine does it, copies and draws included; or why the plan is refused.
  absl::StatusOr<PlanOutcome> Execute(const cluster::v1::StepPlan& plan);
  // What TextModel::TakeExpertLoad says, of every rank.
  std::vector<uint64_t> TakeExpertLoads();
  // Of the last step.
  const StepInput& input() const { return input_; }
  const StepLimits& limits() const { return limits_; }
  // Forgets every sequence; their blocks are free again.
  void Clear();

  const ModelSpec& spec() const { return spec_; }
  // Whether a sequence of so many tokens turns by the long factors.
  bool IsLong(int64_t tokens) const { return rope_switch_ > 0 && tokens > rope_switch_; }

 private:
  struct Rank;
  RankGroup() = default;
  cluster::v1::StepPlan MakePlan(const std::vector<RowTokens>& rows);
  // The row as it is to be computed: with all tokens of its sequence at the switch.
  RowTokens Planned(const RowTokens& row);
  // Each rank's part, on its own thread.
  void OnEveryRank(const std::function<void(Rank&)>& work);
  // The logits of every rank's shard of row `row`, put together.
  std::vector<float> LogitsOf(size_t row) const;

  RealClock clock_;
  ModelSpec spec_;
  StepLimits limits_;
  int64_t rope_switch_ = 0;  // tokens, see RopeSwitch
  AtSwitch at_switch_ = AtSwitch::kComputeAnew;
  std::vector<std::unique_ptr<Ops>> ops_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  SequenceMap sequences_;
  std::map<uint64_t, std::vector<int32_t>> texts_;  // by sequence, what Step was given
  std::vector<uint32_t> all_blocks_;
  std::vector<std::vector<uint32_t>> free_blocks_;  // [KvGroup]
  StepInput input_;
};

int32_t ArgMaxOf(const std::vector<float>& logits);

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_RANK_GROUP_H_
