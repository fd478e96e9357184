// The decoder: embedding, layers of attention and gated MLP around one residual stream, head over
// this rank's part of the vocabulary. Two collectives per layer, each fused with the norms around
// it. Which of the optional parts are there is ModelSpec's to say; no family is known here.
//
// T tokens, H and K heads of this rank, D head size, C hidden, I intermediate of this rank, A model
// dtype.

#include "worker/decoder.h"

#include <algorithm>

#include "base/status.h"

namespace tessera {
namespace {

using cluster::v1::DeviceInterval;

// Bytes of zeros kept on the host to clear the residual stream with.
constexpr size_t kZeroBytes = 64 << 10;

Activation ActivationOf(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kSilu:
      return Activation::kSilu;
    case ActivationKind::kGeluTanh:
      return Activation::kGeluTanh;
    case ActivationKind::kGelu:
      return Activation::kGelu;
  }
  return Activation::kSilu;
}

// The reference holds the scale in the model's dtype.
float EmbeddingScale(const ModelSpec& spec, DType dtype) {
  if (dtype == DType::kFloat32) return spec.embedding_scale;
  return ToFloat(ToBFloat16(spec.embedding_scale));
}

class Decoder final : public TextModel {
 public:
  Decoder(const DecoderParts& parts, const StepLimits& limits)
      : parts_(parts),
        heads_(HeadsOf(parts.spec, parts.comm.rank(), parts.comm.size())),
        intermediate_(parts.spec.intermediate_size / parts.comm.size()),
        tokens_max_(limits.tokens_max),
        rows_max_(limits.rows_max),
        context_max_(limits.context_max),
        activation_(ActivationOf(parts.spec.activation)),
        embedding_scale_(EmbeddingScale(parts.spec, parts.weights.dtype)),
        zeros_(kZeroBytes) {}

  absl::Status Allocate() {
    const ModelSpec& spec = parts_.spec;
    const int64_t hidden = spec.hidden_size;
    TESSERA_RETURN_IF_ERROR(NewMatrix(residual_, tokens_max_, hidden, parts_.weights.dtype));
    TESSERA_RETURN_IF_ERROR(NewMatrix(normed_, tokens_max_, hidden, parts_.weights.dtype));
    TESSERA_RETURN_IF_ERROR(NewMatrix(partial_, tokens_max_, hidden, DType::kFloat32));
    TESSERA_RETURN_IF_ERROR(NewMatrix(qkv_, tokens_max_, qkv_columns(), parts_.weights.dtype));
    TESSERA_RETURN_IF_ERROR(
        NewMatrix(attended_, tokens_max_, query_columns(), parts_.weights.dtype));
    TESSERA_RETURN_IF_ERROR(
        NewMatrix(gate_up_, tokens_max_, 2 * intermediate_, parts_.weights.dtype));
    TESSERA_RETURN_IF_ERROR(
        NewMatrix(activated_, tokens_max_, intermediate_, parts_.weights.dtype));
    TESSERA_RETURN_IF_ERROR(NewMatrix(outputs_, rows_max_, hidden, parts_.weights.dtype));
    TESSERA_RETURN_IF_ERROR(
        NewMatrix(logits_, rows_max_, parts_.weights.vocab_count, DType::kFloat32));
    for (const RotarySpec& rope : spec.ropes) TESSERA_RETURN_IF_ERROR(AddRope(rope));
    return parts_.ops.Synchronize({});
  }

  absl::StatusOr<TensorView> Forward(const ExecContext& ctx, const std::vector<StepView>& steps,
                                     StepTimer& timer) override {
    const int64_t tokens = steps[0].num_tokens;
    TESSERA_CHECK(tokens >= 1 && tokens <= tokens_max_) << tokens;
    const Weights& weights = parts_.weights;
    timer.Enter(DeviceInterval::COMPUTE);
    ClearResidual(ctx, tokens);
    parts_.ops.Embedding(ctx, partial_.Rows(tokens), steps[0].tokens, weights.embedding,
                         weights.vocab_begin, embedding_scale_);
    TESSERA_RETURN_IF_ERROR(
        ReduceAndNorm(ctx, tokens, {}, {}, weights.layers[0].input_norm, timer));
    for (size_t index = 0; index < weights.layers.size(); ++index) {
      const bool last = index + 1 == weights.layers.size();
      const TensorView next_norm = last ? weights.final_norm : weights.layers[index + 1].input_norm;
      const LayerWeights& layer = weights.layers[index];
      Attention(ctx, static_cast<int>(index), steps[parts_.kv.group_of(static_cast<int>(index))]);
      TESSERA_RETURN_IF_ERROR(ReduceAndNorm(ctx, tokens, layer.output_bias,
                                            layer.attention_out_norm, layer.post_norm, timer));
      Mlp(ctx, layer, tokens);
      TESSERA_RETURN_IF_ERROR(
          ReduceAndNorm(ctx, tokens, layer.down_bias, layer.mlp_out_norm, next_norm, timer));
    }
    return Head(ctx, steps[0]);
  }

  size_t workspace_bytes() const override {
    // The widest input of a product.
    const int64_t widest = std::max({parts_.spec.hidden_size, query_columns(), intermediate_});
    return parts_.ops.WorkspaceBytes(std::max(tokens_max_, rows_max_), rows_max_, widest);
  }

  uint64_t buffer_bytes() const override {
    uint64_t bytes = 0;
    for (const Buffer& buffer : buffers_) bytes += buffer.bytes();
    return bytes;
  }

 private:
  int64_t query_columns() const { return heads_.num_heads * parts_.spec.head_size; }
  int64_t qkv_columns() const {
    return query_columns() + 2 * heads_.num_kv_heads * parts_.spec.head_size;
  }

  absl::Status NewMatrix(TensorView& view, int64_t rows, int64_t columns, DType dtype) {
    // A shard of the vocabulary may be empty; its view still has an address.
    const size_t bytes = std::max<int64_t>(rows * columns, 1) * DTypeSize(dtype);
    TESSERA_ASSIGN_OR_RETURN(Buffer buffer, parts_.ops.Allocate(bytes));
    view = buffer.View(dtype, {rows, columns});
    buffers_.push_back(std::move(buffer));
    return absl::OkStatus();
  }

  // residual [T, C] = 0, so that the embedding enters it like any other sum.
  void ClearResidual(const ExecContext& ctx, int64_t tokens) {
    const TensorView residual = residual_.Rows(tokens);
    const size_t bytes = residual.bytes();
    for (size_t begin = 0; begin < bytes; begin += zeros_.size()) {
      parts_.ops.CopyToDevice(ctx, residual.as<uint8_t>() + begin, zeros_.data(),
                              std::min(zeros_.size(), bytes - begin));
    }
  }

  absl::Status AddRope(const RotarySpec& spec) {
    const RotaryTable table = MakeRotaryTable(spec, context_max_);
    TensorView frequencies;
    const int64_t pairs = static_cast<int64_t>(table.inverse_frequencies.size());
    TESSERA_RETURN_IF_ERROR(NewMatrix(frequencies, 1, pairs, DType::kFloat32));
    frequencies = buffers_.back().View(DType::kFloat32, {pairs});
    parts_.ops.CopyToDevice({}, frequencies.data, table.inverse_frequencies.data(),
                            frequencies.bytes());
    ropes_.push_back({.inv_frequency = frequencies,
                      .rotary_size = spec.rotary_size,
                      .attention_factor = table.attention_factor});
    return absl::OkStatus();
  }

  // residual += sum over ranks of partial + bias, or its norm with sum_norm; normed =
  // RmsNorm(residual) with out_norm. Alone, a rank computes only.
  absl::Status ReduceAndNorm(const ExecContext& ctx, int64_t tokens, TensorView bias,
                             TensorView sum_norm, TensorView out_norm, StepTimer& timer) {
    if (parts_.comm.size() > 1) timer.Enter(DeviceInterval::COLLECTIVE);
    absl::Status status = parts_.comm.AllReduceResidualNorm(
        ctx, normed_.Rows(tokens), residual_.Rows(tokens), partial_.Rows(tokens), bias,
        {.weight = out_norm,
         .eps = parts_.spec.rms_norm_eps,
         .plus_one = parts_.spec.norm_plus_one,
         .sum_weight = sum_norm});
    timer.Enter(DeviceInterval::COMPUTE);
    return status;
  }

  // partial = this rank's part of the attention's output, of normed.
  void Attention(const ExecContext& ctx, int index, const StepView& step) {
    Ops& ops = parts_.ops;
    const LayerSpec& spec = parts_.spec.layers[index];
    const LayerWeights& layer = parts_.weights.layers[index];
    const KvLayer& kv = parts_.kv.layer(index);
    const AttentionSpec attention{.num_heads = heads_.num_heads,
                                  .num_kv_heads = heads_.num_kv_heads,
                                  .head_size = parts_.spec.head_size,
                                  .scale = parts_.spec.attention_scale,
                                  .window = spec.window,
                                  .softcap = parts_.spec.attention_softcap};
    const HeadNormSpec head_norm{.query = layer.query_norm,
                                 .key = layer.key_norm,
                                 .eps = parts_.spec.rms_norm_eps,
                                 .plus_one = parts_.spec.norm_plus_one};
    const int64_t tokens = step.num_tokens;
    const TensorView qkv = qkv_.Rows(tokens);
    const TensorView attended = attended_.Rows(tokens);
    ops.MatMul(ctx, qkv, normed_.Rows(tokens), *layer.qkv, layer.qkv_bias);
    ops.RopeAndStoreKv(ctx, qkv, kv, step, head_norm, ropes_[spec.rope], attention);
    ops.PagedAttention(ctx, attended, qkv.Columns(0, query_columns()), kv, step, attention);
    ops.MatMulPartial(ctx, partial_.Rows(tokens), attended, *layer.output);
  }

  // partial = this rank's part of the MLP's output, of normed.
  void Mlp(const ExecContext& ctx, const LayerWeights& layer, int64_t tokens) {
    Ops& ops = parts_.ops;
    const TensorView gate_up = gate_up_.Rows(tokens);
    const TensorView activated = activated_.Rows(tokens);
    ops.MatMul(ctx, gate_up, normed_.Rows(tokens), *layer.gate_up, layer.gate_up_bias);
    ops.GatedActivation(ctx, activated, gate_up, activation_);
    ops.MatMulPartial(ctx, partial_.Rows(tokens), activated, *layer.down);
  }

  // Logits of the tokens whose output is wanted; the others never meet the head.
  TensorView Head(const ExecContext& ctx, const StepView& step) {
    const int64_t outputs = step.output_token.dims[0];
    TESSERA_CHECK(outputs <= rows_max_) << outputs;
    const TensorView logits = logits_.Rows(outputs);
    if (outputs == 0 || parts_.weights.head == nullptr) return logits;
    const TensorView rows = outputs_.Rows(outputs);
    parts_.ops.GatherRows(ctx, rows, normed_.Rows(step.num_tokens), step.output_token);
    parts_.ops.MatMul(ctx, logits, rows, *parts_.weights.head, {});
    if (parts_.spec.final_softcap != 0) {
      parts_.ops.SoftCap(ctx, logits, parts_.spec.final_softcap);
    }
    return logits;
  }

  const DecoderParts parts_;
  const HeadShard heads_;
  const int64_t intermediate_;  // I
  const int64_t tokens_max_;
  const int64_t rows_max_;
  const int64_t context_max_;  // tokens of one sequence
  const Activation activation_;
  const float embedding_scale_;
  const std::vector<uint8_t> zeros_;

  std::vector<Buffer> buffers_;  // own what the views look at
  TensorView residual_;          // [tokens_max, C] A
  TensorView normed_;            // [tokens_max, C] A
  TensorView partial_;           // [tokens_max, C] float32
  TensorView qkv_;               // [tokens_max, (H + 2K) * D] A
  TensorView attended_;          // [tokens_max, H * D] A
  TensorView gate_up_;           // [tokens_max, 2 * I] A
  TensorView activated_;         // [tokens_max, I] A
  TensorView outputs_;           // [rows_max, C] A
  TensorView logits_;            // [rows_max, Vs] float32
  std::vector<RopeSpec> ropes_;  // of ModelSpec::ropes
};

}  // namespace

absl::StatusOr<std::unique_ptr<TextModel>> NewDecoder(const DecoderParts& parts,
                                                      const StepLimits& limits) {
  auto decoder = std::make_unique<Decoder>(parts, limits);
  TESSERA_RETURN_IF_ERROR(decoder->Allocate());
  return decoder;
}

}  // namespace tessera
