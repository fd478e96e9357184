// See standard.h.

#include "models/families/standard.h"

#include "absl/strings/str_cat.h"

namespace tessera {

void LayerTable::Add(const char* name, WeightSlot slot, std::vector<int64_t> shape,
                     ShardRule rule) {
  table_->push_back({.name = prefix_ + name,
                     .slot = slot,
                     .layer = layer_,
                     .shape = std::move(shape),
                     .rule = rule});
}

void LayerTable::AddFused(const char* name, const std::vector<Part>& parts) {
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
  if (!spec.tied_head) add("lm_head.weight", WeightSlot::kHead, vocabulary, ShardRule::kVocab);
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
