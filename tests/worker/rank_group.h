// A whole group inside a test: tp ranks as threads over loopback, each with its own shard, cache
// and decoder. Takes rows of tokens, gives logits of every token over the whole vocabulary.

#ifndef TESSERA_TESTS_WORKER_RANK_GROUP_H_
#define TESSERA_TESTS_WORKER_RANK_GROUP_H_

#include <cstdint>
#include <functional>
#include <memory>
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

struct RankGroupOptions {
  int tp = 1;
  DType dtype = DType::kFloat32;  // of weights, activations and cache
  int64_t block_size = 16;
  int64_t tokens_max = 2048;
  int64_t context_max = 1024;
  uint32_t num_blocks = 1024;
  uint32_t shuffle_seed = 0;                       // order in which blocks are handed out
  std::function<void(ModelSpec&)> edit = nullptr;  // applied to the spec before loading
};

// Tokens of one sequence that follow what it has.
struct RowTokens {
  uint64_t sequence = 0;
  std::vector<int32_t> tokens;
};

class RankGroup {
 public:
  static absl::StatusOr<std::unique_ptr<RankGroup>> Load(const std::string& model_dir,
                                                         const RankGroupOptions& options);
  ~RankGroup();

  // One step. result[i][j]: logits [V] after rows[i].tokens[j].
  std::vector<std::vector<std::vector<float>>> Step(const std::vector<RowTokens>& rows);
  // Forgets every sequence; their blocks are free again.
  void Clear();

  const ModelSpec& spec() const { return spec_; }

 private:
  struct Rank;
  RankGroup() = default;
  cluster::v1::StepPlan MakePlan(const std::vector<RowTokens>& rows);

  RealClock clock_;
  ModelSpec spec_;
  StepLimits limits_;
  std::vector<std::unique_ptr<Ops>> ops_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  SequenceMap sequences_;
  std::vector<uint32_t> all_blocks_;
  std::vector<uint32_t> free_blocks_;
  StepInput input_;
};

int32_t ArgMaxOf(const std::vector<float>& logits);

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_RANK_GROUP_H_
