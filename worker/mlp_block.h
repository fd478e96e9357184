// A layer's MLP: from the normed stream to this rank's part of the sum that the layer adds to it.
// Dense, or experts of which each token passes through a few, with or without one that all pass
// through. One object serves all layers, one after the other; engine thread only.

#ifndef TESSERA_WORKER_MLP_BLOCK_H_
#define TESSERA_WORKER_MLP_BLOCK_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "worker/activations.h"
#include "worker/decoder.h"

namespace tessera {

class MlpBlock {
 public:
  MlpBlock(const DecoderParts& parts, const StepLimits& limits);

  absl::Status Allocate(Activations& activations);
  // partial [T, C] float32 = this rank's part of layer `index`, of normed [T, C] A.
  void Run(const ExecContext& ctx, int index, TensorView partial, TensorView normed);
  int64_t widest() const;
  // Scratch of the experts alone.
  size_t workspace_bytes() const;
  // (token, expert) pairs that this rank computed since the last call. Synchronizes.
  uint64_t TakeLoad(const ExecContext& ctx);

 private:
  bool has_experts() const { return parts_.spec.moe.num_experts > 0; }
  ExpertSizes sizes() const;
  // gate_up_, then activated_, of the dense MLP or the shared expert.
  void Activate(const ExecContext& ctx, const LayerWeights& layer, TensorView normed);
  void RunExperts(const ExecContext& ctx, int index, TensorView partial, TensorView normed);

  const DecoderParts parts_;
  const int64_t tokens_max_;
  const int64_t inner_;  // columns of the widest dense MLP or shared expert of this rank
  const Activation activation_;
  const RoutingSpec routing_;
  std::vector<ExpertShare> shares_;  // per layer; of dense ones without experts

  TensorView gate_up_;        // [tokens_max, 2 * inner] A
  TensorView activated_;      // [tokens_max, inner] A
  TensorView router_logits_;  // [tokens_max, E] A or float32
  TensorView expert_ids_;     // [tokens_max, k] int32
  TensorView weights_;        // [tokens_max, k] float32
  TensorView shared_gate_;    // [tokens_max, 1] float32
  TensorView load_;           // [1] int64
};

}  // namespace tessera

#endif  // TESSERA_WORKER_MLP_BLOCK_H_
