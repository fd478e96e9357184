// See standard.h.

#include "models/families/standard.h"

#include "absl/strings/str_cat.h"

namespace tessera {

void LayerTable::Add(const std::string& name, WeightSlot slot, std::vector<int64_t> shape,
                     ShardRule rule) {
  table_->push_back({.name = prefix_ + name,
                     .slot = slot,
                     .layer = layer_,
                     .shape = std::move(shape),
                     .rule = rule});
}

void LayerTable::AddFused(const std::string& name, const std::vector<Part>& parts) {
  int64_t stored = 0;
  for (const Part& part : parts) stored += part.rows;
  int64_t begin = 0;
  for (const Part& part : parts) {
    Add(name, part.slot, {part.rows, spec_.hidden_size}, part.rule);
    table_->back().stored_begin = begin;
    table_->back().stored_rows = stored;
    begin += part.rows;
  }
}

void LayerTable::AddNorms() {
  const std::vector<int64_t> hidden = {spec_.hidden_size};
  using enum WeightSlot;
  using enum ShardRule;
  Add("input_layernorm.weight", kInputNorm, hidden, kReplicate);
  // Where outputs are normed too, "post" means behind the attention, not before the MLP.
  if (spec_.attention_out_norm) {
    Add("post_attention_layernorm.weight", kAttentionOutNorm, hidden, kReplicate);
    Add("pre_feedforward_layernorm.weight", kPostNorm, hidden, kReplicate);
  } else {
    Add("post_attention_layernorm.weight", kPostNorm, hidden, kReplicate);
  }
  if (spec_.layer_norm) {
    Add("input_layernorm.bias", kInputNormBias, hidden, kReplicate);
    Add("post_attention_layernorm.bias", kPostNormBias, hidden, kReplicate);
  }
  if (spec_.mlp_out_norm) {
    Add("post_feedforward_layernorm.weight", kMlpOutNorm, hidden, kReplicate);
  }
}

void LayerTable::AddAttention() {
  const int64_t hidden = spec_.hidden_size;
  const int64_t query = spec_.num_heads * spec_.head_size;
  const int64_t kv = spec_.num_kv_heads * spec_.head_size;
  using enum WeightSlot;
  using enum ShardRule;
  Add("self_attn.q_proj.weight", kQuery, {query, hidden}, kQueryHeads);
  Add("self_attn.k_proj.weight", kKey, {kv, hidden}, kKvHeads);
  Add("self_attn.v_proj.weight", kValue, {kv, hidden}, kKvHeads);
  Add("self_attn.o_proj.weight", kOutput, {hidden, query}, kColumns);
  if (spec_.qkv_bias) {
    Add("self_attn.q_proj.bias", kQueryBias, {query}, kQueryHeads);
    Add("self_attn.k_proj.bias", kKeyBias, {kv}, kKvHeads);
    Add("self_attn.v_proj.bias", kValueBias, {kv}, kKvHeads);
  }
  if (spec_.output_bias) Add("self_attn.o_proj.bias", kOutputBias, {hidden}, kReplicate);
  if (spec_.qk_norm) {
    Add("self_attn.q_norm.weight", kQueryNorm, {spec_.head_size}, kReplicate);
    Add("self_attn.k_norm.weight", kKeyNorm, {spec_.head_size}, kReplicate);
  }
}

void LayerTable::AddMlp() {
  const int64_t hidden = spec_.hidden_size;
  const int64_t inner = spec_.intermediate_size;
  using enum WeightSlot;
  using enum ShardRule;
  Add("mlp.gate_proj.weight", kGate, {inner, hidden}, kRows);
  Add("mlp.up_proj.weight", kUp, {inner, hidden}, kRows);
  Add("mlp.down_proj.weight", kDown, {hidden, inner}, kColumns);
  if (spec_.mlp_bias) {
    Add("mlp.gate_proj.bias", kGateBias, {inner}, kRows);
    Add("mlp.up_proj.bias", kUpBias, {inner}, kRows);
    Add("mlp.down_proj.bias", kDownBias, {hidden}, kReplicate);
  }
}

void LayerTable::AddFusedAttention() {
  const int64_t query = spec_.num_heads * spec_.head_size;
  const int64_t kv = spec_.num_kv_heads * spec_.head_size;
  using enum WeightSlot;
  using enum ShardRule;
  AddFused("self_attn.qkv_proj.weight",
           {{kQuery, query, kQueryHeads}, {kKey, kv, kKvHeads}, {kValue, kv, kKvHeads}});
  Add("self_attn.o_proj.weight", kOutput, {spec_.hidden_size, query}, kColumns);
}

void LayerTable::AddFusedMlp() {
  const int64_t inner = spec_.intermediate_size;
  using enum WeightSlot;
  using enum ShardRule;
  AddFused("mlp.gate_up_proj.weight", {{kGate, inner, kRows}, {kUp, inner, kRows}});
  Add("mlp.down_proj.weight", kDown, {spec_.hidden_size, inner}, kColumns);
}

void LayerTable::AddLatentAttention() {
  const LatentSpec& latent = spec_.latent;
  const int64_t hidden = spec_.hidden_size;
  const int64_t heads = spec_.num_heads;
  const int64_t query = heads * (latent.nope_size + latent.rope_size);
  using enum WeightSlot;
  using enum ShardRule;
  if (latent.query_rank == 0) {
    Add("self_attn.q_proj.weight", kQuery, {query, hidden}, kQueryHeads);
  } else {
    Add("self_attn.q_a_proj.weight", kQueryDown, {latent.query_rank, hidden}, kReplicate);
    Add("self_attn.q_a_layernorm.weight", kQueryDownNorm, {latent.query_rank}, kReplicate);
    Add("self_attn.q_b_proj.weight", kQuery, {query, latent.query_rank}, kQueryHeads);
  }
  Add("self_attn.kv_a_proj_with_mqa.weight", kLatentDown, {latent.entry_size(), hidden},
      kReplicate);
  Add("self_attn.kv_a_layernorm.weight", kLatentNorm, {latent.kv_rank}, kReplicate);
  // For every head a run of keys, then one of values.
  const int64_t run = latent.nope_size + latent.value_size;
  const auto add_runs = [&](WeightSlot slot, int64_t begin, int64_t rows) {
    Add("self_attn.kv_b_proj.weight", slot, {heads * rows, latent.kv_rank}, kQueryHeads);
    table_->back().stored_begin = begin;
    table_->back().stored_rows = heads * run;
    table_->back().run_rows = rows;
    table_->back().run_stride = run;
  };
  add_runs(kKeyUp, 0, latent.nope_size);
  add_runs(kValueUp, latent.nope_size, latent.value_size);
  Add("self_attn.o_proj.weight", kOutput, {hidden, heads * latent.value_size}, kColumns);
}

void LayerTable::AddExperts(const ExpertNames& names) {
  const MoeSpec& moe = spec_.moe;
  const int64_t hidden = spec_.hidden_size;
  const int64_t inner = moe.expert_intermediate;
  using enum WeightSlot;
  using enum ShardRule;
  Add(names.prefix + "gate.weight", kRouter, {moe.num_experts, hidden}, kReplicate);
  if (moe.correction_bias) {
    Add(names.prefix + "gate.e_score_correction_bias", kRouterCorrection, {moe.num_experts},
        kReplicate);
  }
  for (int expert = 0; expert < moe.num_experts; ++expert) {
    const std::string prefix = absl::StrCat(names.prefix, "experts.", expert, ".");
    const auto add = [&](const std::string& name, WeightSlot slot, std::vector<int64_t> shape) {
      Add(absl::StrCat(prefix, name, ".weight"), slot, std::move(shape), kExperts);
      table_->back().expert = expert;
    };
    add(names.gate, kExpertGate, {inner, hidden});
    add(names.up, kExpertUp, {inner, hidden});
    add(names.down, kExpertDown, {hidden, inner});
  }
  if (moe.shared_intermediate == 0) return;
  const int64_t shared = moe.shared_intermediate;
  const std::string prefix = names.prefix + names.shared;
  Add(prefix + "." + names.gate + ".weight", kSharedGate, {shared, hidden}, kRows);
  Add(prefix + "." + names.up + ".weight", kSharedUp, {shared, hidden}, kRows);
  Add(prefix + "." + names.down + ".weight", kSharedDown, {hidden, shared}, kColumns);
  if (moe.shared_gate) Add(prefix + "_gate.weight", kSharedSwitch, {1, hidden}, kReplicate);
}

void LayerTable::AddMlpOrExperts(const ExpertNames& names) {
  spec_.layers[layer_].experts ? AddExperts(names) : AddMlp();
}

std::vector<WeightSpec> WeightsAround(const ModelSpec& spec,
                                      absl::FunctionRef<void(LayerTable&)> add_layer) {
  const std::vector<int64_t> vocabulary = {spec.vocab_size, spec.hidden_size};
  std::vector<WeightSpec> table;
  const auto add = [&](const char* name, WeightSlot slot, std::vector<int64_t> shape,
                       ShardRule rule) {
    table.push_back({.name = name, .slot = slot, .shape = std::move(shape), .rule = rule});
  };
  add("model.embed_tokens.weight", WeightSlot::kEmbedding, vocabulary, ShardRule::kVocab);
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    LayerTable layer_table(spec, layer, absl::StrCat("model.layers.", layer, "."), &table);
    add_layer(layer_table);
  }
  add("model.norm.weight", WeightSlot::kFinalNorm, {spec.hidden_size}, ShardRule::kReplicate);
  if (spec.layer_norm) {
    add("model.norm.bias", WeightSlot::kFinalNormBias, {spec.hidden_size}, ShardRule::kReplicate);
  }
  if (!spec.tied_head) add("lm_head.weight", WeightSlot::kHead, vocabulary, ShardRule::kVocab);
  if (spec.head_bias) {
    add("lm_head.bias", WeightSlot::kHeadBias, {spec.vocab_size}, ShardRule::kVocab);
  }
  return table;
}

std::vector<WeightSpec> StandardWeights(const ModelSpec& spec) {
  return WeightsAround(spec, [](LayerTable& layer) {
    layer.AddNorms();
    layer.AddAttention();
    layer.AddMlp();
  });
}

bool StandardIgnorable(const ModelSpec& spec, std::string_view tensor) {
  if (spec.tied_head && tensor == "lm_head.weight") return true;
  return tensor.starts_with("model.") && tensor.ends_with(".rotary_emb.inv_freq");
}

}  // namespace tessera
