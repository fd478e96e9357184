// The table: a new feature of a golden needs a row here.

#include "tests/worker/feature_mutations.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

namespace tessera {
namespace {

using Kind = RopeScaling::Kind;

void SetWindows(ModelSpec& spec, const std::function<int64_t(int64_t layer)>& window) {
  for (int64_t layer = 0; layer < spec.num_layers; ++layer) {
    spec.layers[layer].window = window(layer);
  }
  spec.kv_groups = GroupLayers(spec);
}

Mutation NoScaling() {
  return {"no rope scaling", [](ModelSpec& spec) {
            for (RotarySpec& rope : spec.ropes) rope.scaling = RopeScaling();
          }};
}

Mutation NoAttentionFactor() {
  return {"no magnitude of rope scaling", [](ModelSpec& spec) {
            for (RotarySpec& rope : spec.ropes) {
              rope.scaling.attention_factor = rope.scaling.long_attention_factor = 1.0;
            }
          }};
}

Mutation OtherLongRope() {
  return {"short and long factors exchanged", [](ModelSpec& spec) {
            for (RotarySpec& rope : spec.ropes) {
              std::swap(rope.scaling.short_factor, rope.scaling.long_factor);
            }
          }};
}

// All of the head turns, as fast as its last pairs did.
void TurnWholeHead(ModelSpec& spec) {
  for (RotarySpec& rope : spec.ropes) {
    rope.rotary_size = spec.head_size;
    if (rope.scaling.kind != Kind::kLongRope) continue;
    const size_t pairs = static_cast<size_t>(spec.head_size / 2);
    rope.scaling.short_factor.resize(pairs, rope.scaling.short_factor.back());
    rope.scaling.long_factor.resize(pairs, rope.scaling.long_factor.back());
  }
}

Mutation OnLayers(const std::string& name, const std::function<void(LayerWeights&)>& edit) {
  return {name, nullptr, [edit](Weights& weights) {
            for (LayerWeights& layer : weights.layers) edit(layer);
          }};
}

using Table = std::map<std::string, std::vector<Mutation>>;

void AddRopes(Table& table) {
  table["rope_linear"] = table["rope_llama3"] = {NoScaling()};
  table["rope_yarn"] = {NoScaling(), NoAttentionFactor()};
  table["rope_longrope_short"] =
      table["rope_longrope_long"] = {NoScaling(), NoAttentionFactor(), OtherLongRope()};
  table["partial_rotary"] = {{"the whole head turns", TurnWholeHead}};
  table["two_ropes"] = {{"one rope",
                         [](ModelSpec& spec) {
                           for (LayerSpec& layer : spec.layers) layer.rope = 0;
                         }},
                        {"ropes exchanged", [](ModelSpec& spec) {
                           for (LayerSpec& layer : spec.layers) layer.rope = 1 - layer.rope;
                         }}};
}

void AddWindows(Table& table) {
  table["window"] = {
      {"no window", [](ModelSpec& spec) { SetWindows(spec, [](int64_t) { return 0; }); }},
      {"window of one token less", [](ModelSpec& spec) {
         const std::vector<LayerSpec> layers = spec.layers;
         SetWindows(spec, [&](int64_t layer) {
           return layers[layer].window == 0 ? 0 : layers[layer].window - 1;
         });
       }}};
  table["mixed_windows"] = {
      {"window on every layer",
       [](ModelSpec& spec) {
         const int64_t window = spec.kv_groups.back().window;
         SetWindows(spec, [&](int64_t) { return window; });
       }},
      {"window on the other layers", [](ModelSpec& spec) {
         const std::vector<LayerSpec> layers = spec.layers;
         const int64_t window = spec.kv_groups.back().window;
         SetWindows(spec, [&](int64_t layer) { return layers[layer].window == 0 ? window : 0; });
       }}};
}

void AddNormsAndCaps(Table& table) {
  table["qk_norm"] = {
      OnLayers("no norm of queries", [](LayerWeights& layer) { layer.query_norm = TensorView(); }),
      OnLayers("no norm of keys", [](LayerWeights& layer) { layer.key_norm = TensorView(); })};
  table["out_norms"] = {
      OnLayers("no norm behind attention",
               [](LayerWeights& layer) { layer.attention_out_norm = TensorView(); }),
      OnLayers("no norm behind the MLP",
               [](LayerWeights& layer) { layer.mlp_out_norm = TensorView(); })};
  table["norm_plus_one"] = {
      {"plain norm weights", [](ModelSpec& spec) { spec.norm_plus_one = false; }}};
  table["embedding_scale"] = {
      {"no embedding scale", [](ModelSpec& spec) { spec.embedding_scale = 1.0f; }}};
  table["gelu_tanh"] = {{"SiLU", [](ModelSpec& spec) { spec.activation = ActivationKind::kSilu; }}};
  table["attention_softcap"] = {
      {"no cap on scores", [](ModelSpec& spec) { spec.attention_softcap = 0.0f; }}};
  table["final_softcap"] = {
      {"no cap on logits", [](ModelSpec& spec) { spec.final_softcap = 0.0f; }}};
  table["layer_norm"] = {
      OnLayers(
          "rms norms",
          [](LayerWeights& layer) { layer.input_norm_bias = layer.post_norm_bias = TensorView(); }),
      {"no bias of the last norm", nullptr, [](Weights& weights) {
         std::fill_n(weights.final_norm_bias.as<float>(), weights.final_norm_bias.size(), 0.0f);
       }}};
  table["head_bias"] = {
      {"no bias of the head", nullptr, [](Weights& weights) { weights.head_bias = TensorView(); }}};
  table["query_scale"] = {{"scale of the head size", [](ModelSpec& spec) {
                             spec.attention_scale =
                                 1.0f / std::sqrt(static_cast<float>(spec.head_size));
                           }}};
}

// All elements 1, as if it were not there; the tests compute in float32 on the host.
void Neutralize(TensorView weight) { std::fill_n(weight.as<float>(), weight.size(), 1.0f); }

Mutation OnMoe(const std::string& name, const std::function<void(MoeSpec&)>& edit) {
  return {name, [edit](ModelSpec& spec) { edit(spec.moe); }};
}

void AddExperts(Table& table) {
  using Scoring = MoeSpec::Scoring;
  const Mutation fewer =
      OnMoe("an expert fewer per token", [](MoeSpec& moe) { --moe.experts_per_token; });
  table["experts"] = {OnLayers("experts exchanged", [](LayerWeights& layer) {
    std::reverse(layer.experts.begin(), layer.experts.end());
  })};
  table["routing_norm"] = {
      fewer, OnMoe("no norm of routing weights", [](MoeSpec& moe) { moe.normalize = false; })};
  table["raw_routing"] = {
      fewer, OnMoe("norm of routing weights", [](MoeSpec& moe) { moe.normalize = true; })};
  table["routed_scale"] = {
      OnMoe("no scale of routing weights", [](MoeSpec& moe) { moe.routed_scale = 1.0; })};
  table["expert_groups"] = {
      OnMoe("no groups", [](MoeSpec& moe) { moe.num_groups = moe.groups_per_token = 1; }),
      OnMoe("groups by another number of their best",
            [](MoeSpec& moe) { moe.group_top = 3 - moe.group_top; })};
  table["sigmoid_routing"] = {
      OnMoe("softmax", [](MoeSpec& moe) { moe.scoring = Scoring::kSoftmax; })};
  table["sparse_mixer"] = {OnMoe("softmax", [](MoeSpec& moe) { moe.scoring = Scoring::kSoftmax; }),
                           OnMoe("another jitter", [](MoeSpec& moe) { moe.jitter *= 0.5; })};
  table["correction_bias"] = {OnLayers(
      "no correction bias", [](LayerWeights& layer) { layer.router_correction = TensorView(); })};
  table["shared_expert"] = {OnLayers("no shared expert", [](LayerWeights& layer) {
    if (layer.router != nullptr) layer.down.reset();
  })};
  table["shared_gate"] = {OnLayers("no gate of the shared expert",
                                   [](LayerWeights& layer) { layer.shared_switch.reset(); })};
  table["dense_layers"] = {{"experts in every layer", [](ModelSpec& spec) {
                              for (LayerSpec& layer : spec.layers) layer.experts = true;
                            }}};
}

void AddLatent(Table& table) {
  table["latent"] = {
      OnLayers("no norm of the latent", [](LayerWeights& layer) { Neutralize(layer.latent_norm); }),
      {"pairs half a turning part apart", [](ModelSpec& spec) {
         for (RotarySpec& rope : spec.ropes) rope.interleaved = !rope.interleaved;
       }}};
  table["query_rank"] = {OnLayers("no norm of narrow queries",
                                  [](LayerWeights& layer) { Neutralize(layer.query_down_norm); })};
  table["mscale"] = {{"no magnitude in scores", [](ModelSpec& spec) {
                        const double magnitude = spec.ropes[0].scaling.score_magnitude;
                        spec.attention_scale /= static_cast<float>(magnitude * magnitude);
                      }}};
  table["float8"] = {{"no block scales", [](ModelSpec& spec) { spec.float8 = {}; }}};
}

}  // namespace

std::vector<Mutation> CommonMutations() {
  return {{"attention scale", [](ModelSpec& spec) { spec.attention_scale *= 1.2f; }},
          {"rope theta", [](ModelSpec& spec) {
             for (RotarySpec& rope : spec.ropes) rope.theta *= 1.5;
           }}};
}

std::map<std::string, std::vector<Mutation>> FeatureMutations() {
  Table table;
  for (const char* stored : {"float32", "bfloat16", "float16", "sharded", "demo", "fused"}) {
    table[stored] = {};
  }
  table["gqa"] = {
      {"a KV head per query head", [](ModelSpec& spec) { spec.num_kv_heads = spec.num_heads; }}};
  table["mha"] = {{"half the KV heads", [](ModelSpec& spec) { spec.num_kv_heads /= 2; }}};
  table["head_dim"] = {{"heads as wide as hidden / heads", [](ModelSpec& spec) {
                          spec.head_size = spec.hidden_size / spec.num_heads;
                        }}};
  table["tied_head"] = {{"untied head", [](ModelSpec& spec) { spec.tied_head = false; }}};
  table["attention_bias"] = {OnLayers("no attention bias", [](LayerWeights& layer) {
    layer.qkv_bias = layer.output_bias = TensorView();
  })};
  table["qkv_bias"] = {
      OnLayers("no bias", [](LayerWeights& layer) { layer.qkv_bias = TensorView(); })};
  table["mlp_bias"] = {OnLayers("no MLP bias", [](LayerWeights& layer) {
    layer.gate_up_bias = layer.down_bias = TensorView();
  })};

  AddRopes(table);
  AddWindows(table);
  AddNormsAndCaps(table);
  AddExperts(table);
  AddLatent(table);
  return table;
}

}  // namespace tessera
