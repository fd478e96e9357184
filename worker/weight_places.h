// Where the weights of one rank lie: makes its matrices and vectors, empty, and says for each slot
// of the tensor table which rows of which of them it fills. Used by the loader in weights.cc, on
// the rank's thread.

#ifndef TESSERA_WORKER_WEIGHT_PLACES_H_
#define TESSERA_WORKER_WEIGHT_PLACES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "models/model_spec.h"
#include "models/weight_spec.h"
#include "worker/weights.h"

namespace tessera {

// Rows of a packed weight, or of a plain view.
struct WeightPlace {
  explicit WeightPlace(const std::unique_ptr<Weight>& weight, int64_t row = 0)
      : packed(weight.get()), row_begin(row) {}
  explicit WeightPlace(TensorView view, int64_t row = 0) : plain(view), row_begin(row) {}
  Weight* packed = nullptr;
  TensorView plain;
  int64_t row_begin = 0;
  // Every run of the slot's rows is stored transposed: [run rows, K] fills K rows of run columns.
  bool transposed = false;
};

class WeightPlaces {
 public:
  // Everything must outlive the object.
  WeightPlaces(Ops& ops, const ModelSpec& spec, const WeightsOptions& options, Weights& weights);

  // RESOURCE_EXHAUSTED without memory.
  absl::Status Allocate();
  // A tied head has two.
  std::vector<WeightPlace> Of(const WeightSpec& weight) const;
  // Rows of everything that was made, each to be filled exactly once.
  int64_t rows_made() const { return rows_made_; }

 private:
  absl::StatusOr<TensorView> NewPlain(int64_t rows, int64_t columns = 0);
  absl::StatusOr<TensorView> NewPlain(DType dtype, int64_t rows, int64_t columns);
  absl::StatusOr<std::unique_ptr<Weight>> NewPacked(int64_t rows, int64_t columns);
  // The same, and the next, of a matrix that may be float8.
  absl::StatusOr<std::unique_ptr<Weight>> NewProduct(int64_t rows, int64_t columns);
  DType product_dtype() const { return options_.float8 ? DType::kFloat8E4M3 : options_.dtype; }
  absl::StatusOr<std::unique_ptr<Weight>> NewPacked(const WeightShape& shape);
  // The whole matrix has `columns` * tp columns, of which this rank has its share in rank order.
  absl::StatusOr<std::unique_ptr<Weight>> NewRowParallel(int64_t rows, int64_t columns);

  absl::Status AllocateVocabulary();
  absl::Status AllocateLayer(const LayerSpec& spec, LayerWeights& layer);
  absl::Status AllocateAttention(LayerWeights& layer);
  absl::Status AllocateLatentAttention(LayerWeights& layer);
  absl::Status AllocateMlp(LayerWeights& layer, int64_t inner);
  absl::Status AllocateExperts(LayerWeights& layer);
  WeightPlace InLayer(const WeightSpec& weight, const LayerWeights& layer) const;
  WeightPlace InAttention(WeightSlot slot, const LayerWeights& layer) const;
  WeightPlace InMlp(const WeightSpec& weight, const LayerWeights& layer) const;

  Ops& ops_;
  const ModelSpec& spec_;
  const WeightsOptions& options_;
  Weights& weights_;
  const HeadShard heads_;
  const ExpertRange experts_;
  const int64_t query_rows_;    // of the query heads of this rank
  const int64_t kv_rows_;       // K * D of this rank
  const int64_t latent_begin_;  // row of qkv where the latent begins
  int64_t rows_made_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_WEIGHT_PLACES_H_
