// See mlp_block.h.

#include "worker/mlp_block.h"

#include <algorithm>

#include "base/status.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

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

RoutingSpec::Scoring ScoringOf(MoeSpec::Scoring scoring) {
  switch (scoring) {
    case MoeSpec::Scoring::kSoftmax:
      return RoutingSpec::Scoring::kSoftmax;
    case MoeSpec::Scoring::kSigmoid:
      return RoutingSpec::Scoring::kSigmoid;
    case MoeSpec::Scoring::kSparseMixer:
      return RoutingSpec::Scoring::kSparseMixer;
  }
  return RoutingSpec::Scoring::kSoftmax;
}

RoutingSpec RoutingOf(const MoeSpec& moe) {
  return {.scoring = ScoringOf(moe.scoring),
          .num_groups = moe.num_groups,
          .groups_per_token = moe.groups_per_token,
          .group_top = moe.group_top,
          .normalize = moe.normalize,
          .scale = static_cast<float>(moe.routed_scale),
          .jitter = static_cast<float>(moe.jitter)};
}

int64_t WidestInner(const std::vector<LayerWeights>& layers) {
  int64_t inner = 0;
  for (const LayerWeights& layer : layers) {
    if (layer.down != nullptr) inner = std::max(inner, layer.down->columns());
  }
  return inner;
}

}  // namespace

MlpBlock::MlpBlock(const DecoderParts& parts, const StepLimits& limits)
    : parts_(parts),
      tokens_max_(limits.tokens_max),
      inner_(WidestInner(parts.weights.layers)),
      activation_(ActivationOf(parts.spec.activation)),
      routing_(RoutingOf(parts.spec.moe)) {
  const int slices = kReduceSlices / parts.comm.size();
  for (const LayerWeights& layer : parts.weights.layers) {
    ExpertShare share{.num_experts = parts.spec.moe.num_experts,
                      .first_slice = slices * parts.comm.rank(),
                      .num_slices = slices,
                      .activation = activation_};
    for (const ExpertWeights& expert : layer.experts) {
      share.experts.push_back({.gate_up = expert.gate_up.get(), .down = expert.down.get()});
    }
    shares_.push_back(std::move(share));
  }
}

absl::Status MlpBlock::Allocate(Activations& activations) {
  const DType dtype = parts_.weights.dtype;
  const MoeSpec& moe = parts_.spec.moe;
  TESSERA_RETURN_IF_ERROR(activations.Make(gate_up_, tokens_max_, 2 * inner_, dtype));
  TESSERA_RETURN_IF_ERROR(activations.Make(activated_, tokens_max_, inner_, dtype));
  if (!has_experts()) return absl::OkStatus();
  TESSERA_RETURN_IF_ERROR(activations.Make(router_logits_, tokens_max_, moe.num_experts,
                                           moe.float32_logits ? DType::kFloat32 : dtype));
  TESSERA_RETURN_IF_ERROR(
      activations.Make(expert_ids_, tokens_max_, moe.experts_per_token, DType::kInt32));
  TESSERA_RETURN_IF_ERROR(
      activations.Make(weights_, tokens_max_, moe.experts_per_token, DType::kFloat32));
  if (moe.shared_gate) {
    TESSERA_RETURN_IF_ERROR(activations.Make(shared_gate_, tokens_max_, 1, DType::kFloat32));
  }
  return activations.Make(load_, 1, 1, DType::kInt64);
}

int64_t MlpBlock::widest() const { return std::max(parts_.spec.hidden_size, inner_); }

size_t MlpBlock::workspace_bytes() const {
  if (!has_experts()) return 0;
  return parts_.ops.ExpertsWorkspaceBytes(tokens_max_,
                                          {.hidden = parts_.spec.hidden_size,
                                           .num_experts = parts_.spec.moe.num_experts,
                                           .experts_per_token = parts_.spec.moe.experts_per_token,
                                           .intermediate = parts_.spec.moe.expert_intermediate,
                                           .shared = inner_});
}

uint64_t MlpBlock::TakeLoad(const ExecContext& ctx) {
  if (!has_experts()) return 0;
  int64_t pairs = 0;
  parts_.ops.CopyToHost(ctx, &pairs, load_.data, sizeof(pairs));
  const int64_t none = 0;
  parts_.ops.CopyToDevice(ctx, load_.data, &none, sizeof(none));
  return static_cast<uint64_t>(pairs);
}

void MlpBlock::Run(const ExecContext& ctx, int index, TensorView partial, TensorView normed) {
  const LayerWeights& layer = parts_.weights.layers[index];
  if (layer.down != nullptr) Activate(ctx, layer, normed);
  if (layer.router != nullptr) return RunExperts(ctx, index, partial, normed);
  parts_.ops.MatMulPartial(
      ctx, partial, activated_.Rows(normed.dims[0]).Columns(0, layer.down->columns()), *layer.down);
}

void MlpBlock::Activate(const ExecContext& ctx, const LayerWeights& layer, TensorView normed) {
  const int64_t tokens = normed.dims[0];
  const int64_t inner = layer.down->columns();
  const TensorView gate_up = gate_up_.Rows(tokens).Columns(0, 2 * inner);
  parts_.ops.MatMul(ctx, gate_up, normed, *layer.gate_up, layer.gate_up_bias);
  parts_.ops.GatedActivation(ctx, activated_.Rows(tokens).Columns(0, inner), gate_up, activation_);
}

void MlpBlock::RunExperts(const ExecContext& ctx, int index, TensorView partial,
                          TensorView normed) {
  Ops& ops = parts_.ops;
  const LayerWeights& layer = parts_.weights.layers[index];
  const int64_t tokens = normed.dims[0];
  const TensorView logits = router_logits_.Rows(tokens);
  const Routing routing{.ids = expert_ids_.Rows(tokens), .weights = weights_.Rows(tokens)};
  ops.MatMul(ctx, logits, normed, *layer.router, {});
  ops.RouteExperts(ctx, routing, logits, layer.router_correction, routing_);
  SharedExpert shared;
  if (layer.down != nullptr) {
    shared.activated = activated_.Rows(tokens).Columns(0, layer.down->columns());
    shared.down = layer.down.get();
  }
  if (layer.shared_switch != nullptr) {
    shared.gate = shared_gate_.Rows(tokens);
    ops.MatMul(ctx, shared.gate, normed, *layer.shared_switch, {});
  }
  ops.ExpertsPartial(ctx, partial, normed, routing, shares_[index], shared, load_);
}

}  // namespace tessera
