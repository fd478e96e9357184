// From Assign to weights: finds the model under --model-root, makes sure it is the very model the
// coordinator has, loads this rank's shard, and keeps it when the group is lost, so that a later
// Assign of the same shard reads nothing. Holds one shard at a time. Rank's thread only.

#ifndef TESSERA_WORKER_MODEL_STORE_H_
#define TESSERA_WORKER_MODEL_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kernels/ops.h"
#include "models/model_spec.h"
#include "tessera/cluster/v1/cluster.pb.h"
#include "worker/weights.h"

namespace tessera {

// A model as one rank holds it.
struct LoadedModel {
  std::string directory;
  ModelSpec spec;
  std::shared_ptr<const Weights> weights;
};

// Assign.load_format of weights that are made up.
inline constexpr char kDummyWeights[] = "dummy";
// Assign.quantize of float8 weights.
inline constexpr char kFloat8Weights[] = "fp8";

// What one assignment takes of this machine, in bytes.
struct AssignmentBytes {
  uint64_t weights = 0;
  uint64_t kv = 0;
};
AssignmentBytes BytesOf(const ModelSpec& spec, const cluster::v1::Assign& assign, DType dtype,
                        DType kv_dtype);

// "float32" and "bfloat16"; INVALID_ARGUMENT naming the field for anything else.
absl::StatusOr<DType> ParseComputeDType(const std::string& field, const std::string& name);

class ModelStore {
 public:
  // `ops` and `clock` must outlive the store and the weights it gave out.
  ModelStore(std::vector<std::string> model_roots, Ops& ops, const Clock& clock)
      : model_roots_(std::move(model_roots)), ops_(ops), clock_(clock) {}

  struct Result {
    std::shared_ptr<const LoadedModel> model;
    bool reused = false;  // was in memory already
  };
  // `assign` has passed CheckAssign. NOT_FOUND when no such model is under the roots,
  // FAILED_PRECONDITION naming both digests and the path when it is another model,
  // RESOURCE_EXHAUSTED naming what is wanted and what there is, or what the checkpoint's reader,
  // the loader or `progress` say.
  absl::StatusOr<Result> Get(const cluster::v1::Assign& assign, const ExecContext& ctx,
                             const LoadProgressFn& progress);

 private:
  // The first directory under the roots that may be the model and has its digest.
  absl::StatusOr<std::unique_ptr<Checkpoint>> OpenModel(const cluster::v1::Assign& assign) const;

  const std::vector<std::string> model_roots_;
  Ops& ops_;
  const Clock& clock_;
  std::string held_key_;  // of held_, "" without
  std::shared_ptr<const LoadedModel> held_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_MODEL_STORE_H_
