// See weight_places.h.

#include "worker/weight_places.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace tessera {
namespace {

int64_t QueryHeadSize(const ModelSpec& spec) {
  if (spec.latent.kv_rank == 0) return spec.head_size;
  return spec.latent.nope_size + spec.latent.rope_size;
}

}  // namespace

WeightPlaces::WeightPlaces(Ops& ops, const ModelSpec& spec, const WeightsOptions& options,
                           Weights& weights)
    : ops_(ops),
      spec_(spec),
      options_(options),
      weights_(weights),
      heads_(HeadsOf(spec, options.rank, options.tp)),
      experts_(ExpertsOf(spec, options.rank, options.tp)),
      query_rows_(heads_.num_heads * QueryHeadSize(spec)),
      kv_rows_(heads_.num_kv_heads * spec.head_size),
      latent_begin_(spec.latent.query_rank > 0 ? spec.latent.query_rank : query_rows_) {}

absl::StatusOr<TensorView> WeightPlaces::NewPlain(int64_t rows, int64_t columns) {
  return NewPlain(options_.dtype, rows, columns);
}

absl::StatusOr<TensorView> WeightPlaces::NewPlain(DType dtype, int64_t rows, int64_t columns) {
  const int64_t size = rows * std::max<int64_t>(columns, 1);
  // An empty shard still gets memory, so that its view is not taken for an absent one.
  TESSERA_ASSIGN_OR_RETURN(Buffer buffer,
                           ops_.Allocate(std::max<int64_t>(size, 1) * DTypeSize(dtype)));
  weights_.resident_bytes += buffer.bytes();
  weights_.buffers.push_back(std::move(buffer));
  rows_made_ += rows;
  const Buffer& made = weights_.buffers.back();
  return columns == 0 ? made.View(dtype, {rows}) : made.View(dtype, {rows, columns});
}

absl::StatusOr<std::unique_ptr<Weight>> WeightPlaces::NewPacked(int64_t rows, int64_t columns) {
  return NewPacked({.rows = rows, .columns = columns, .dtype = options_.dtype});
}

absl::StatusOr<std::unique_ptr<Weight>> WeightPlaces::NewProduct(int64_t rows, int64_t columns) {
  return NewPacked({.rows = rows, .columns = columns, .dtype = product_dtype()});
}

absl::StatusOr<std::unique_ptr<Weight>> WeightPlaces::NewPacked(const WeightShape& shape) {
  TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Weight> weight, ops_.NewWeight(shape));
  weights_.resident_bytes += weight->bytes();
  rows_made_ += shape.rows;
  return weight;
}

absl::StatusOr<std::unique_ptr<Weight>> WeightPlaces::NewRowParallel(int64_t rows,
                                                                     int64_t columns) {
  return NewPacked({.rows = rows,
                    .columns = columns,
                    .dtype = product_dtype(),
                    .column_begin = columns * options_.rank,
                    .column_total = columns * options_.tp});
}

absl::Status WeightPlaces::Allocate() {
  weights_.dtype = options_.dtype;
  TESSERA_RETURN_IF_ERROR(AllocateVocabulary());
  weights_.layers.resize(spec_.num_layers);
  for (int64_t index = 0; index < spec_.num_layers; ++index) {
    TESSERA_RETURN_IF_ERROR(AllocateLayer(spec_.layers[index], weights_.layers[index]));
  }
  return absl::OkStatus();
}

absl::Status WeightPlaces::AllocateVocabulary() {
  Weights& w = weights_;
  for (const WeightSpec& weight : WeightTable(spec_)) {
    if (weight.slot != WeightSlot::kEmbedding) continue;
    const Shard shard = ShardOf(weight, spec_, options_.rank, options_.tp);
    w.vocab_begin = shard.row_begin;
    w.vocab_count = shard.row_count;
  }
  TESSERA_ASSIGN_OR_RETURN(w.embedding, NewPlain(w.vocab_count, spec_.hidden_size));
  TESSERA_ASSIGN_OR_RETURN(w.final_norm, NewPlain(spec_.hidden_size));
  if (spec_.layer_norm) {
    TESSERA_ASSIGN_OR_RETURN(w.final_norm_bias, NewPlain(spec_.hidden_size));
  }
  if (spec_.head_bias) {
    TESSERA_ASSIGN_OR_RETURN(w.head_bias, NewPlain(w.vocab_count));
  }
  if (w.vocab_count == 0) return absl::OkStatus();
  TESSERA_ASSIGN_OR_RETURN(w.head, NewPacked(w.vocab_count, spec_.hidden_size));
  return absl::OkStatus();
}

absl::Status WeightPlaces::AllocateLayer(const LayerSpec& spec, LayerWeights& layer) {
  const int64_t hidden = spec_.hidden_size;
  TESSERA_ASSIGN_OR_RETURN(layer.input_norm, NewPlain(hidden));
  if (spec_.layer_norm) {
    TESSERA_ASSIGN_OR_RETURN(layer.input_norm_bias, NewPlain(hidden));
    TESSERA_ASSIGN_OR_RETURN(layer.post_norm_bias, NewPlain(hidden));
  }
  const bool is_latent = spec_.latent.kv_rank > 0;
  TESSERA_RETURN_IF_ERROR(is_latent ? AllocateLatentAttention(layer) : AllocateAttention(layer));
  if (spec_.output_bias) {
    TESSERA_ASSIGN_OR_RETURN(layer.output_bias, NewPlain(hidden));
  }
  if (spec_.attention_out_norm) {
    TESSERA_ASSIGN_OR_RETURN(layer.attention_out_norm, NewPlain(hidden));
  }
  TESSERA_ASSIGN_OR_RETURN(layer.post_norm, NewPlain(hidden));
  if (spec_.mlp_out_norm) {
    TESSERA_ASSIGN_OR_RETURN(layer.mlp_out_norm, NewPlain(hidden));
  }
  if (spec.experts) return AllocateExperts(layer);
  return AllocateMlp(layer, spec_.intermediate_size / options_.tp);
}

absl::Status WeightPlaces::AllocateAttention(LayerWeights& layer) {
  const int64_t qkv_rows = query_rows_ + 2 * kv_rows_;
  TESSERA_ASSIGN_OR_RETURN(layer.qkv, NewProduct(qkv_rows, spec_.hidden_size));
  if (spec_.qkv_bias) {
    TESSERA_ASSIGN_OR_RETURN(layer.qkv_bias, NewPlain(qkv_rows));
  }
  if (spec_.qk_norm) {
    TESSERA_ASSIGN_OR_RETURN(layer.query_norm, NewPlain(spec_.head_size));
    TESSERA_ASSIGN_OR_RETURN(layer.key_norm, NewPlain(spec_.head_size));
  }
  TESSERA_ASSIGN_OR_RETURN(layer.output, NewRowParallel(spec_.hidden_size, query_rows_));
  return absl::OkStatus();
}

absl::Status WeightPlaces::AllocateLatentAttention(LayerWeights& layer) {
  const LatentSpec& latent = spec_.latent;
  TESSERA_ASSIGN_OR_RETURN(layer.qkv,
                           NewPacked(latent_begin_ + latent.entry_size(), spec_.hidden_size));
  if (latent.query_rank > 0) {
    TESSERA_ASSIGN_OR_RETURN(layer.query_down_norm, NewPlain(latent.query_rank));
    TESSERA_ASSIGN_OR_RETURN(layer.query_up, NewPacked(query_rows_, latent.query_rank));
  }
  TESSERA_ASSIGN_OR_RETURN(layer.latent_norm, NewPlain(latent.kv_rank));
  TESSERA_ASSIGN_OR_RETURN(layer.key_up,
                           NewPacked(heads_.num_heads * latent.kv_rank, latent.nope_size));
  const int64_t value_columns = heads_.num_heads * latent.value_size;
  TESSERA_ASSIGN_OR_RETURN(layer.value_up, NewPacked(value_columns, latent.kv_rank));
  TESSERA_ASSIGN_OR_RETURN(layer.output, NewRowParallel(spec_.hidden_size, value_columns));
  return absl::OkStatus();
}

absl::Status WeightPlaces::AllocateMlp(LayerWeights& layer, int64_t inner) {
  const int64_t hidden = spec_.hidden_size;
  TESSERA_ASSIGN_OR_RETURN(layer.gate_up, NewProduct(2 * inner, hidden));
  TESSERA_ASSIGN_OR_RETURN(layer.down, NewRowParallel(hidden, inner));
  if (spec_.mlp_bias) {
    TESSERA_ASSIGN_OR_RETURN(layer.gate_up_bias, NewPlain(2 * inner));
    TESSERA_ASSIGN_OR_RETURN(layer.down_bias, NewPlain(hidden));
  }
  return absl::OkStatus();
}

absl::Status WeightPlaces::AllocateExperts(LayerWeights& layer) {
  const MoeSpec& moe = spec_.moe;
  const int64_t hidden = spec_.hidden_size;
  TESSERA_ASSIGN_OR_RETURN(layer.router, NewPacked(moe.num_experts, hidden));
  if (moe.correction_bias) {
    TESSERA_ASSIGN_OR_RETURN(layer.router_correction,
                             NewPlain(DType::kFloat32, moe.num_experts, 0));
  }
  layer.experts.resize(experts_.count);
  for (ExpertWeights& expert : layer.experts) {
    TESSERA_ASSIGN_OR_RETURN(expert.gate_up, NewProduct(2 * moe.expert_intermediate, hidden));
    TESSERA_ASSIGN_OR_RETURN(expert.down, NewProduct(hidden, moe.expert_intermediate));
  }
  if (moe.shared_intermediate == 0) return absl::OkStatus();
  if (moe.shared_gate) {
    TESSERA_ASSIGN_OR_RETURN(layer.shared_switch, NewPacked(1, hidden));
  }
  return AllocateMlp(layer, moe.shared_intermediate / options_.tp);
}

std::vector<WeightPlace> WeightPlaces::Of(const WeightSpec& weight) const {
  const Weights& w = weights_;
  if (weight.layer >= 0) return {InLayer(weight, w.layers[weight.layer])};
  switch (weight.slot) {
    case WeightSlot::kEmbedding:
      if (!spec_.tied_head || w.head == nullptr) return {WeightPlace(w.embedding)};
      return {WeightPlace(w.embedding), WeightPlace(w.head)};
    case WeightSlot::kFinalNorm:
      return {WeightPlace(w.final_norm)};
    case WeightSlot::kFinalNormBias:
      return {WeightPlace(w.final_norm_bias)};
    case WeightSlot::kHead:
      return {WeightPlace(w.head)};
    case WeightSlot::kHeadBias:
      return {WeightPlace(w.head_bias)};
    default:
      TESSERA_CHECK(false) << weight.name << " belongs to a layer but names none";
      return {};
  }
}

WeightPlace WeightPlaces::InLayer(const WeightSpec& weight, const LayerWeights& layer) const {
  switch (weight.slot) {
    case WeightSlot::kInputNorm:
      return WeightPlace(layer.input_norm);
    case WeightSlot::kInputNormBias:
      return WeightPlace(layer.input_norm_bias);
    case WeightSlot::kAttentionOutNorm:
      return WeightPlace(layer.attention_out_norm);
    case WeightSlot::kPostNorm:
      return WeightPlace(layer.post_norm);
    case WeightSlot::kPostNormBias:
      return WeightPlace(layer.post_norm_bias);
    case WeightSlot::kMlpOutNorm:
      return WeightPlace(layer.mlp_out_norm);
    case WeightSlot::kGate:
    case WeightSlot::kUp:
    case WeightSlot::kDown:
    case WeightSlot::kGateBias:
    case WeightSlot::kUpBias:
    case WeightSlot::kDownBias:
    case WeightSlot::kRouter:
    case WeightSlot::kRouterCorrection:
    case WeightSlot::kExpertGate:
    case WeightSlot::kExpertUp:
    case WeightSlot::kExpertDown:
    case WeightSlot::kSharedGate:
    case WeightSlot::kSharedUp:
    case WeightSlot::kSharedDown:
    case WeightSlot::kSharedSwitch:
      return InMlp(weight, layer);
    default:
      return InAttention(weight.slot, layer);
  }
}

WeightPlace WeightPlaces::InAttention(WeightSlot slot, const LayerWeights& layer) const {
  WeightPlace key_up(layer.key_up);
  switch (slot) {
    case WeightSlot::kQuery:
      return WeightPlace(spec_.latent.query_rank > 0 ? layer.query_up : layer.qkv);
    case WeightSlot::kKey:
      return WeightPlace(layer.qkv, query_rows_);
    case WeightSlot::kValue:
      return WeightPlace(layer.qkv, query_rows_ + kv_rows_);
    case WeightSlot::kQueryBias:
      return WeightPlace(layer.qkv_bias);
    case WeightSlot::kKeyBias:
      return WeightPlace(layer.qkv_bias, query_rows_);
    case WeightSlot::kValueBias:
      return WeightPlace(layer.qkv_bias, query_rows_ + kv_rows_);
    case WeightSlot::kQueryNorm:
      return WeightPlace(layer.query_norm);
    case WeightSlot::kKeyNorm:
      return WeightPlace(layer.key_norm);
    case WeightSlot::kQueryDown:
      return WeightPlace(layer.qkv);
    case WeightSlot::kQueryDownNorm:
      return WeightPlace(layer.query_down_norm);
    case WeightSlot::kLatentDown:
      return WeightPlace(layer.qkv, latent_begin_);
    case WeightSlot::kLatentNorm:
      return WeightPlace(layer.latent_norm);
    case WeightSlot::kKeyUp:
      key_up.transposed = true;
      return key_up;
    case WeightSlot::kValueUp:
      return WeightPlace(layer.value_up);
    case WeightSlot::kOutput:
      return WeightPlace(layer.output);
    case WeightSlot::kOutputBias:
      return WeightPlace(layer.output_bias);
    default:
      break;
  }
  TESSERA_CHECK(false) << "slot " << static_cast<int>(slot) << " is not of a layer";
  return WeightPlace(TensorView());
}

WeightPlace WeightPlaces::InMlp(const WeightSpec& weight, const LayerWeights& layer) const {
  const int64_t inner = layer.gate_up == nullptr ? 0 : layer.gate_up->rows() / 2;
  const auto expert = [&]() -> const ExpertWeights& {
    return layer.experts[weight.expert - experts_.begin];
  };
  switch (weight.slot) {
    case WeightSlot::kGate:
    case WeightSlot::kSharedGate:
      return WeightPlace(layer.gate_up);
    case WeightSlot::kUp:
    case WeightSlot::kSharedUp:
      return WeightPlace(layer.gate_up, inner);
    case WeightSlot::kDown:
    case WeightSlot::kSharedDown:
      return WeightPlace(layer.down);
    case WeightSlot::kGateBias:
      return WeightPlace(layer.gate_up_bias);
    case WeightSlot::kUpBias:
      return WeightPlace(layer.gate_up_bias, inner);
    case WeightSlot::kDownBias:
      return WeightPlace(layer.down_bias);
    case WeightSlot::kRouter:
      return WeightPlace(layer.router);
    case WeightSlot::kRouterCorrection:
      return WeightPlace(layer.router_correction);
    case WeightSlot::kSharedSwitch:
      return WeightPlace(layer.shared_switch);
    case WeightSlot::kExpertGate:
      return WeightPlace(expert().gate_up);
    case WeightSlot::kExpertUp:
      return WeightPlace(expert().gate_up, spec_.moe.expert_intermediate);
    case WeightSlot::kExpertDown:
      return WeightPlace(expert().down);
    default:
      break;
  }
  TESSERA_CHECK(false) << weight.name << " is not of an MLP";
  return WeightPlace(TensorView());
}

}  // namespace tessera
