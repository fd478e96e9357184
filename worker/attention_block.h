// A layer's attention: from the normed stream to this rank's part of the sum that the layer adds to
// it. Either the ordinary one, with keys and values per head in the cache, or the latent one, whose
// cache keeps a narrow vector per token for all heads. One object serves all layers, one after the
// other; engine thread only.

#ifndef TESSERA_WORKER_ATTENTION_BLOCK_H_
#define TESSERA_WORKER_ATTENTION_BLOCK_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "models/weight_spec.h"
#include "worker/activations.h"
#include "worker/decoder.h"
#include "worker/group_step.h"

namespace tessera {

class AttentionBlock {
 public:
  AttentionBlock(const DecoderParts& parts, const StepLimits& limits);

  absl::Status Allocate(Activations& activations);
  // partial [T, C] float32 = this rank's part of layer `index`, of normed [T, C] A.
  void Run(const ExecContext& ctx, int index, const GroupStep& step, TensorView partial,
           TensorView normed) const;
  // Columns of the widest input of its products.
  int64_t widest() const;

 private:
  // The two tables of a rotary embedding; most have the same for short and long sequences.
  struct Ropes {
    RopeSpec short_rope;
    RopeSpec long_rope;
    const RopeSpec& Of(const GroupStep::Run& run) const {
      return run.long_rope ? long_rope : short_rope;
    }
  };
  absl::StatusOr<RopeSpec> NewRope(const RotarySpec& spec, bool is_long, Activations& activations);
  AttentionSpec SpecOf(int index) const;
  void RunFull(const ExecContext& ctx, int index, const GroupStep& step, TensorView normed) const;
  void RunLatent(const ExecContext& ctx, int index, const GroupStep& step, TensorView normed) const;
  bool is_latent() const { return parts_.spec.latent.kv_rank > 0; }
  // Elements of this rank's query heads as they meet the cache.
  int64_t query_columns() const { return heads_.num_heads * parts_.spec.head_size; }
  // The same before latent attention brings them to the latent.
  int64_t plain_columns() const {
    return heads_.num_heads * (parts_.spec.latent.nope_size + parts_.spec.latent.rope_size);
  }

  const DecoderParts parts_;
  const HeadShard heads_;
  const int64_t tokens_max_;

  TensorView qkv_;            // [tokens_max, rows of LayerWeights::qkv] A
  TensorView plain_;          // [tokens_max, H * (N + R)] A, where queries are made in two steps
  TensorView query_;          // [tokens_max, H * D] A, latent only
  TensorView mixed_;          // [tokens_max, H * L] A, latent only
  TensorView attended_;       // [tokens_max, columns of LayerWeights::output] A
  std::vector<Ropes> ropes_;  // of ModelSpec::ropes
};

}  // namespace tessera

#endif  // TESSERA_WORKER_ATTENTION_BLOCK_H_
