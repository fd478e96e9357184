// See attention_block.h. H and K heads of this rank, D head size; of latent attention L, N, R, V as
// in LatentSpec, D = L + R.
//
// Latent attention is always computed on the latent itself: a query is brought to it (key_up), the
// cache's entries are keys and values of a single head, and what came of them is brought to values
// (value_up). So a token's result does not depend on which tokens are computed with it.

#include "worker/attention_block.h"

#include <algorithm>

#include "base/status.h"

namespace tessera {

AttentionBlock::AttentionBlock(const DecoderParts& parts, const StepLimits& limits)
    : parts_(parts),
      heads_(HeadsOf(parts.spec, parts.comm.rank(), parts.comm.size())),
      tokens_max_(limits.tokens_max) {}

absl::Status AttentionBlock::Allocate(Activations& activations) {
  const DType dtype = parts_.weights.dtype;
  const LayerWeights& layer = parts_.weights.layers[0];
  const LatentSpec& latent = parts_.spec.latent;
  TESSERA_RETURN_IF_ERROR(activations.Make(qkv_, tokens_max_, layer.qkv->rows(), dtype));
  TESSERA_RETURN_IF_ERROR(activations.Make(attended_, tokens_max_, layer.output->columns(), dtype));
  if (is_latent()) {
    if (latent.query_rank > 0) {
      TESSERA_RETURN_IF_ERROR(activations.Make(plain_, tokens_max_, plain_columns(), dtype));
    }
    TESSERA_RETURN_IF_ERROR(activations.Make(query_, tokens_max_, query_columns(), dtype));
    TESSERA_RETURN_IF_ERROR(
        activations.Make(mixed_, tokens_max_, heads_.num_heads * latent.kv_rank, dtype));
  }
  for (const RotarySpec& rope : parts_.spec.ropes) {
    Ropes& ropes = ropes_.emplace_back();
    TESSERA_ASSIGN_OR_RETURN(ropes.short_rope, NewRope(rope, /*is_long=*/false, activations));
    TESSERA_ASSIGN_OR_RETURN(ropes.long_rope, NewRope(rope, /*is_long=*/true, activations));
  }
  return absl::OkStatus();
}

absl::StatusOr<RopeSpec> AttentionBlock::NewRope(const RotarySpec& spec, bool is_long,
                                                 Activations& activations) {
  const RotaryTable table = MakeRotaryTable(spec, is_long);
  const int64_t pairs = static_cast<int64_t>(table.inverse_frequencies.size());
  TensorView row;
  TESSERA_RETURN_IF_ERROR(activations.Make(row, 1, pairs, DType::kFloat32));
  const TensorView frequencies(row.data, DType::kFloat32, {pairs});
  parts_.ops.CopyToDevice({}, frequencies.data, table.inverse_frequencies.data(),
                          frequencies.bytes());
  return RopeSpec{.inv_frequency = frequencies,
                  .rotary_size = spec.rotary_size,
                  .attention_factor = table.attention_factor,
                  .interleaved = spec.interleaved};
}

int64_t AttentionBlock::widest() const {
  const LayerWeights& layer = parts_.weights.layers[0];
  int64_t widest = std::max(parts_.spec.hidden_size, layer.output->columns());
  if (is_latent()) {
    // A product per head has all of them packed at once.
    widest = std::max({widest, parts_.spec.latent.query_rank, plain_columns(),
                       heads_.num_heads * parts_.spec.latent.kv_rank});
  }
  return widest;
}

AttentionSpec AttentionBlock::SpecOf(int index) const {
  return {.num_heads = heads_.num_heads,
          .num_kv_heads = heads_.num_kv_heads,
          .head_size = parts_.spec.head_size,
          .scale = parts_.spec.attention_scale,
          .window = parts_.spec.layers[index].window,
          .softcap = parts_.spec.attention_softcap,
          .value_size = parts_.spec.latent.kv_rank};
}

void AttentionBlock::Run(const ExecContext& ctx, int index, const GroupStep& step,
                         TensorView partial, TensorView normed) const {
  is_latent() ? RunLatent(ctx, index, step, normed) : RunFull(ctx, index, step, normed);
  parts_.ops.MatMulPartial(ctx, partial, attended_.Rows(step.all.num_tokens),
                           *parts_.weights.layers[index].output);
}

void AttentionBlock::RunFull(const ExecContext& ctx, int index, const GroupStep& step,
                             TensorView normed) const {
  Ops& ops = parts_.ops;
  const LayerWeights& layer = parts_.weights.layers[index];
  const KvLayer& kv = parts_.kv.layer(index);
  const AttentionSpec spec = SpecOf(index);
  const HeadNormSpec head_norm{.query = layer.query_norm,
                               .key = layer.key_norm,
                               .eps = parts_.spec.rms_norm_eps,
                               .plus_one = parts_.spec.norm_plus_one};
  const int64_t tokens = step.all.num_tokens;
  const TensorView qkv = qkv_.Rows(tokens);
  const Ropes& ropes = ropes_[parts_.spec.layers[index].rope];
  ops.MatMul(ctx, qkv, normed, *layer.qkv, layer.qkv_bias);
  for (const GroupStep::Run& run : step.runs) {
    ops.RopeAndStoreKv(ctx, qkv.Rows(run.first_token, run.rows.num_tokens), kv, run.rows, head_norm,
                       ropes.Of(run), spec);
  }
  ops.PagedAttention(ctx, attended_.Rows(tokens), qkv.Columns(0, query_columns()), kv, step.all,
                     spec);
}

void AttentionBlock::RunLatent(const ExecContext& ctx, int index, const GroupStep& step,
                               TensorView normed) const {
  Ops& ops = parts_.ops;
  const LatentSpec& latent = parts_.spec.latent;
  const LayerWeights& layer = parts_.weights.layers[index];
  const KvLayer& kv = parts_.kv.layer(index);
  const AttentionSpec spec = SpecOf(index);
  const int64_t tokens = step.all.num_tokens;
  const Ropes& ropes = ropes_[parts_.spec.layers[index].rope];
  const TensorView qkv = qkv_.Rows(tokens);
  const TensorView first = qkv.Columns(0, qkv.dims[1] - latent.entry_size());
  const TensorView entry = qkv.Columns(first.dims[1], latent.entry_size());
  const TensorView query = query_.Rows(tokens);
  const TensorView mixed = mixed_.Rows(tokens);
  ops.MatMul(ctx, qkv, normed, *layer.qkv, layer.qkv_bias);
  TensorView plain = first;
  if (latent.query_rank > 0) {
    plain = plain_.Rows(tokens);
    ops.RmsNorm(ctx, first, first, {.weight = layer.query_down_norm, .eps = latent.norm_eps});
    ops.MatMul(ctx, plain, first, *layer.query_up, {});
  }
  ops.MatMulHeads(ctx, query, plain, *layer.key_up, heads_.num_heads);
  for (const GroupStep::Run& run : step.runs) {
    const int64_t first = run.first_token;
    const int64_t count = run.rows.num_tokens;
    ops.RopeAndStoreLatent(
        ctx, query.Rows(first, count), plain.Rows(first, count), entry.Rows(first, count), kv,
        run.rows, {.weight = layer.latent_norm, .eps = latent.norm_eps}, ropes.Of(run), spec);
  }
  ops.PagedAttention(ctx, mixed, query, kv, step.all, spec);
  ops.MatMulHeads(ctx, attended_.Rows(tokens), mixed, *layer.value_up, heads_.num_heads);
}

}  // namespace tessera
