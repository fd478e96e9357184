// The decoder: embedding, layers of attention and MLP around one residual stream, head over this
// rank's part of the vocabulary. Two collectives per layer, each fused with the norms around it.
// What is inside a layer is attention_block.h's and mlp_block.h's; which of the optional parts are
// there is ModelSpec's to say, and no family is known here.
//
// T tokens, C hidden, A model dtype.

#include "worker/decoder.h"

#include <algorithm>

#include "base/status.h"
#include "worker/activations.h"
#include "worker/attention_block.h"
#include "worker/mlp_block.h"

namespace tessera {
namespace {

using cluster::v1::DeviceInterval;

// The reference holds the scale in the model's dtype.
float EmbeddingScale(const ModelSpec& spec, DType dtype) {
  if (dtype == DType::kFloat32) return spec.embedding_scale;
  return ToFloat(ToBFloat16(spec.embedding_scale));
}

class Decoder final : public TextModel {
 public:
  Decoder(const DecoderParts& parts, const StepLimits& limits)
      : parts_(parts),
        tokens_max_(limits.tokens_max),
        rows_max_(limits.rows_max),
        embedding_scale_(EmbeddingScale(parts.spec, parts.weights.dtype)),
        activations_(parts.ops),
        attention_(parts, limits),
        mlp_(parts, limits) {}

  absl::Status Allocate() {
    const int64_t hidden = parts_.spec.hidden_size;
    const DType dtype = parts_.weights.dtype;
    TESSERA_RETURN_IF_ERROR(activations_.Make(residual_, tokens_max_, hidden, dtype));
    TESSERA_RETURN_IF_ERROR(activations_.Make(normed_, tokens_max_, hidden, dtype));
    TESSERA_RETURN_IF_ERROR(activations_.Make(partial_, tokens_max_, hidden, DType::kFloat32));
    TESSERA_RETURN_IF_ERROR(activations_.Make(outputs_, rows_max_, hidden, dtype));
    TESSERA_RETURN_IF_ERROR(
        activations_.Make(logits_, rows_max_, parts_.weights.vocab_count, DType::kFloat32));
    TESSERA_RETURN_IF_ERROR(attention_.Allocate(activations_));
    TESSERA_RETURN_IF_ERROR(mlp_.Allocate(activations_));
    return parts_.ops.Synchronize({});
  }

  absl::StatusOr<TensorView> Forward(const ExecContext& ctx, const std::vector<GroupStep>& steps,
                                     StepTimer& timer) override {
    const int64_t tokens = steps[0].all.num_tokens;
    TESSERA_CHECK(tokens >= 1 && tokens <= tokens_max_) << tokens;
    const Weights& weights = parts_.weights;
    timer.Enter(DeviceInterval::COMPUTE);
    ClearResidual(ctx, tokens);
    parts_.ops.Embedding(ctx, partial_.Rows(tokens), steps[0].all.tokens, weights.embedding,
                         weights.vocab_begin, embedding_scale_);
    TESSERA_RETURN_IF_ERROR(ReduceAndNorm(ctx, tokens, {}, {}, InputNorm(0), timer));
    for (size_t index = 0; index < weights.layers.size(); ++index) {
      const LayerWeights& layer = weights.layers[index];
      const int number = static_cast<int>(index);
      attention_.Run(ctx, number, steps[parts_.kv.group_of(number)], partial_.Rows(tokens),
                     normed_.Rows(tokens));
      TESSERA_RETURN_IF_ERROR(ReduceAndNorm(ctx, tokens, layer.output_bias,
                                            layer.attention_out_norm,
                                            {layer.post_norm, layer.post_norm_bias}, timer));
      mlp_.Run(ctx, number, partial_.Rows(tokens), normed_.Rows(tokens));
      TESSERA_RETURN_IF_ERROR(ReduceAndNorm(ctx, tokens, layer.down_bias, layer.mlp_out_norm,
                                            InputNorm(index + 1), timer));
    }
    return Head(ctx, steps[0].all);
  }

  size_t workspace_bytes() const override {
    const int64_t widest = std::max(attention_.widest(), mlp_.widest());
    return std::max(parts_.ops.WorkspaceBytes(std::max(tokens_max_, rows_max_), rows_max_, widest),
                    mlp_.workspace_bytes());
  }

  uint64_t buffer_bytes() const override { return activations_.bytes(); }

  uint64_t TakeExpertLoad(const ExecContext& ctx) override { return mlp_.TakeLoad(ctx); }

 private:
  struct NormWeights {
    TensorView weight;
    TensorView bias;
  };
  // The norm in front of layer `index`, or in front of the head.
  NormWeights InputNorm(size_t index) const {
    const Weights& weights = parts_.weights;
    if (index == weights.layers.size()) return {weights.final_norm, weights.final_norm_bias};
    return {weights.layers[index].input_norm, weights.layers[index].input_norm_bias};
  }

  // residual [T, C] = 0, so that the embedding enters it like any other sum.
  void ClearResidual(const ExecContext& ctx, int64_t tokens) {
    parts_.ops.Fill(ctx, residual_.Rows(tokens), {.spread = 0.0f});
  }

  // residual += sum over ranks of partial + bias, or its norm with sum_norm; normed =
  // the norm of residual by out_norm. Alone, a rank computes only.
  absl::Status ReduceAndNorm(const ExecContext& ctx, int64_t tokens, TensorView bias,
                             TensorView sum_norm, const NormWeights& out_norm, StepTimer& timer) {
    if (parts_.comm.size() > 1) timer.Enter(DeviceInterval::COLLECTIVE);
    absl::Status status = parts_.comm.AllReduceResidualNorm(
        ctx, normed_.Rows(tokens), residual_.Rows(tokens), partial_.Rows(tokens), bias,
        {.weight = out_norm.weight,
         .bias = out_norm.bias,
         .eps = parts_.spec.rms_norm_eps,
         .plus_one = parts_.spec.norm_plus_one,
         .sum_weight = sum_norm});
    timer.Enter(DeviceInterval::COMPUTE);
    return status;
  }

  // Logits of the tokens whose output is wanted; the others never meet the head.
  TensorView Head(const ExecContext& ctx, const StepView& step) {
    const int64_t outputs = step.output_token.dims[0];
    TESSERA_CHECK(outputs <= rows_max_) << outputs;
    const TensorView logits = logits_.Rows(outputs);
    if (outputs == 0 || parts_.weights.head == nullptr) return logits;
    const TensorView rows = outputs_.Rows(outputs);
    parts_.ops.GatherRows(ctx, rows, normed_.Rows(step.num_tokens), step.output_token);
    parts_.ops.MatMul(ctx, logits, rows, *parts_.weights.head, parts_.weights.head_bias);
    if (parts_.spec.final_softcap != 0) {
      parts_.ops.SoftCap(ctx, logits, parts_.spec.final_softcap);
    }
    return logits;
  }

  const DecoderParts parts_;
  const int64_t tokens_max_;
  const int64_t rows_max_;
  const float embedding_scale_;

  Activations activations_;  // own what the views look at
  TensorView residual_;      // [tokens_max, C] A
  TensorView normed_;        // [tokens_max, C] A
  TensorView partial_;       // [tokens_max, C] float32
  TensorView outputs_;       // [rows_max, C] A
  TensorView logits_;        // [rows_max, Vs] float32
  AttentionBlock attention_;
  MlpBlock mlp_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TextModel>> NewDecoder(const DecoderParts& parts,
                                                      const StepLimits& limits) {
  auto decoder = std::make_unique<Decoder>(parts, limits);
  TESSERA_RETURN_IF_ERROR(decoder->Allocate());
  return decoder;
}

}  // namespace tessera
