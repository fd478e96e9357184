// One rank of one assignment: takes plans, gives results. Holds no policy; two engines with the
// same assignment and the same plans have the same state. Several may live in one process. Execute
// runs on the engine thread; Abort may be called from any thread.

#ifndef TESSERA_WORKER_ENGINE_H_
#define TESSERA_WORKER_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "kernels/ops.h"
#include "models/model_spec.h"
#include "tessera/cluster/v1/step.pb.h"
#include "worker/comm/communicator.h"
#include "worker/decode_graphs.h"
#include "worker/decoder.h"
#include "worker/kv_cache.h"
#include "worker/plan_check.h"
#include "worker/sampler.h"
#include "worker/scorer.h"
#include "worker/step_input.h"
#include "worker/step_timer.h"
#include "worker/weights.h"

namespace tessera {

struct EngineOptions {
  uint64_t term = 0;
  uint64_t epoch = 0;
  uint32_t group = 0;
  ModelSpec spec;
  DType kv_dtype = DType::kBFloat16;
  StepLimits limits;
  bool deterministic = true;  // see ExecContext
  // Decode steps are recorded where the device can; their collectives must be queued like ops.
  bool record_decode = false;
};

class Engine {
 public:
  // Takes all memory of the assignment but the weights. `ops`, `threads` (may be null) and `clock`
  // must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(EngineOptions options, Ops& ops,
                                                        ThreadPool* threads,
                                                        std::shared_ptr<const Weights> weights,
                                                        std::unique_ptr<Communicator> comm,
                                                        const Clock& clock);

  // Computes the plan and fills `result`. A plan that may not run is answered in result.error and
  // changes nothing. A status that is not OK means that the group is lost or the device broken; it
  // is in result.error too, and the engine can only be destroyed.
  absl::Status Execute(const cluster::v1::StepPlan& plan, cluster::v1::StepResult& result);

  // Makes a collective that Execute waits in fail soon.
  void Abort() { comm_->Abort(); }

  uint64_t kv_bytes() const { return kv_->bytes(); }
  // What recording has to tell, for the log; empty: nothing.
  std::string TakeNews() { return graphs_ == nullptr ? "" : graphs_->TakeNews(); }
  // Buffers of the forward pass, arrays and scratch.
  uint64_t activation_bytes() const;

 private:
  Engine(EngineOptions options, Ops& ops, ThreadPool* threads,
         std::shared_ptr<const Weights> weights, std::unique_ptr<Communicator> comm,
         const Clock& clock, StepArrays arrays);

  absl::Status CheckIdentity(const cluster::v1::StepPlan& plan) const;
  void CopyBlocks(const cluster::v1::StepPlan& plan);
  absl::Status Compute(const cluster::v1::StepPlan& plan, cluster::v1::StepResult& result);
  absl::StatusOr<TensorView> Forward();
  void Account(absl::Time begin, cluster::v1::StepResult& result);

  const EngineOptions options_;
  const Clock& clock_;
  Ops& ops_;
  const std::shared_ptr<const Weights> weights_;
  const std::unique_ptr<Communicator> comm_;
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<TextModel> model_;
  std::unique_ptr<DecodeGraphs> graphs_;  // null: nothing is recorded
  Sampler sampler_;
  Scorer scorer_;
  Buffer workspace_;
  ExecContext ctx_;

  StepArrays arrays_;
  StepInput input_;
  StepInput padded_;
  StepTimer timer_;
  SequenceMap sequences_;
  std::vector<int32_t> drawn_;  // one per entry of input_.sampling
  std::vector<ScoreRow> score_rows_;
  Scores scores_;
  uint64_t last_step_ = 0;
  absl::Time last_end_;
  absl::Time resident_measured_ = absl::InfinitePast();
  uint64_t resident_bytes_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_ENGINE_H_
