// See llama.h. Defaults of missing keys are those of the reference implementation's LlamaConfig;
// sizes have no default.

#include "models/families/llama.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "models/config_parts.h"

namespace tessera::llama {
namespace {

absl::Status ParseHeads(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_ASSIGN_OR_RETURN(spec->num_heads, config.Int("num_attention_heads", 1, kHeadsMax));
  TESSERA_ASSIGN_OR_RETURN(
      spec->num_kv_heads, config.IntOr("num_key_value_heads", spec->num_heads, 1, spec->num_heads));
  if (spec->num_heads % spec->num_kv_heads != 0) {
    return config.Refuse("num_key_value_heads",
                         absl::StrCat("a divisor of num_attention_heads, ", spec->num_heads));
  }
  if (!config.Has("head_dim") && spec->hidden_size % spec->num_heads != 0) {
    return config.Refuse("num_attention_heads",
                         absl::StrCat("a divisor of hidden_size, ", spec->hidden_size,
                                      ", where there is no head_dim"));
  }
  TESSERA_ASSIGN_OR_RETURN(
      spec->head_size,
      config.IntOr("head_dim", spec->hidden_size / spec->num_heads, 1, kHeadSizeMax));
  if (spec->head_size % 2 != 0 || spec->head_size < 2 || spec->head_size > kHeadSizeMax) {
    const std::string allowed = absl::StrCat("an even number from 2 to ", kHeadSizeMax);
    if (config.Has("head_dim")) return config.Refuse("head_dim", allowed);
    return absl::InvalidArgumentError(absl::StrCat(
        "config.json: hidden_size ", spec->hidden_size, " / num_attention_heads ", spec->num_heads,
        " gives heads of ", spec->head_size, " elements; it must be ", allowed));
  }
  spec->rotary_size = spec->head_size;
  spec->attention_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec->head_size)));
  return absl::OkStatus();
}

void AddLayer(const ModelSpec& spec, int layer, std::vector<WeightSpec>* table) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const int64_t hidden = spec.hidden_size;
  const int64_t query = spec.num_heads * spec.head_size;
  const int64_t kv = spec.num_kv_heads * spec.head_size;
  const int64_t inner = spec.intermediate_size;
  const auto add = [&](const char* name, WeightSlot slot, std::vector<int64_t> shape,
                       ShardRule rule) {
    table->push_back({prefix + name, slot, layer, std::move(shape), rule});
  };
  using enum WeightSlot;
  using enum ShardRule;
  add("input_layernorm.weight", kInputNorm, {hidden}, kReplicate);
  add("self_attn.q_proj.weight", kQuery, {query, hidden}, kQueryHeads);
  add("self_attn.k_proj.weight", kKey, {kv, hidden}, kKvHeads);
  add("self_attn.v_proj.weight", kValue, {kv, hidden}, kKvHeads);
  add("self_attn.o_proj.weight", kOutput, {hidden, query}, kColumns);
  if (spec.qkv_bias) {
    add("self_attn.q_proj.bias", kQueryBias, {query}, kQueryHeads);
    add("self_attn.k_proj.bias", kKeyBias, {kv}, kKvHeads);
    add("self_attn.v_proj.bias", kValueBias, {kv}, kKvHeads);
  }
  if (spec.output_bias) add("self_attn.o_proj.bias", kOutputBias, {hidden}, kReplicate);
  add("post_attention_layernorm.weight", kPostNorm, {hidden}, kReplicate);
  add("mlp.gate_proj.weight", kGate, {inner, hidden}, kRows);
  add("mlp.up_proj.weight", kUp, {inner, hidden}, kRows);
  add("mlp.down_proj.weight", kDown, {hidden, inner}, kColumns);
  if (spec.mlp_bias) {
    add("mlp.gate_proj.bias", kGateBias, {inner}, kRows);
    add("mlp.up_proj.bias", kUpBias, {inner}, kRows);
    add("mlp.down_proj.bias", kDownBias, {hidden}, kReplicate);
  }
}

}  // namespace

absl::Status Parse(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_ASSIGN_OR_RETURN(spec->num_layers, config.Int("num_hidden_layers", 1, kLayersMax));
  TESSERA_ASSIGN_OR_RETURN(spec->hidden_size, config.Int("hidden_size", 1, kHiddenSizeMax));
  TESSERA_ASSIGN_OR_RETURN(spec->intermediate_size,
                           config.Int("intermediate_size", 1, kIntermediateSizeMax));
  TESSERA_ASSIGN_OR_RETURN(spec->vocab_size, config.Int("vocab_size", 1, kVocabSizeMax));
  TESSERA_ASSIGN_OR_RETURN(spec->context_max,
                           config.Int("max_position_embeddings", 1, kContextMax));
  TESSERA_RETURN_IF_ERROR(ParseHeads(config, spec));
  TESSERA_ASSIGN_OR_RETURN(const double eps, config.Number("rms_norm_eps", 1e-12, 1.0));
  spec->rms_norm_eps = static_cast<float>(eps);
  TESSERA_ASSIGN_OR_RETURN(spec->activation, ParseActivation(config, "hidden_act"));
  TESSERA_RETURN_IF_ERROR(ParseRope(config, spec));
  TESSERA_ASSIGN_OR_RETURN(spec->tied_head, config.BoolOr("tie_word_embeddings", false));
  // One switch for all four projections of the attention, another for all three of the MLP.
  TESSERA_ASSIGN_OR_RETURN(spec->qkv_bias, config.BoolOr("attention_bias", false));
  spec->output_bias = spec->qkv_bias;
  TESSERA_ASSIGN_OR_RETURN(spec->mlp_bias, config.BoolOr("mlp_bias", false));
  spec->kv_groups = {FullAttentionGroup(*spec)};
  return absl::OkStatus();
}

std::vector<WeightSpec> Weights(const ModelSpec& spec) {
  const std::vector<int64_t> vocabulary = {spec.vocab_size, spec.hidden_size};
  std::vector<WeightSpec> table;
  table.push_back(
      {"model.embed_tokens.weight", WeightSlot::kEmbedding, -1, vocabulary, ShardRule::kVocab});
  for (int layer = 0; layer < spec.num_layers; ++layer) AddLayer(spec, layer, &table);
  table.push_back(
      {"model.norm.weight", WeightSlot::kFinalNorm, -1, {spec.hidden_size}, ShardRule::kReplicate});
  if (!spec.tied_head) {
    table.push_back({"lm_head.weight", WeightSlot::kHead, -1, vocabulary, ShardRule::kVocab});
  }
  return table;
}

bool Ignorable(const ModelSpec& spec, std::string_view tensor) {
  if (spec.tied_head && tensor == "lm_head.weight") return true;
  return tensor.starts_with("model.") && tensor.ends_with(".rotary_emb.inv_freq");
}

}  // namespace tessera::llama
