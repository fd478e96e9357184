// The table: a new feature of a golden needs a row here.

#include "tests/worker/feature_mutations.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "models/weight_spec.h"
#include "tests/worker/tensor_files.h"

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

Mutation OnFiles(
    const std::string& name,
    const std::function<void(const ModelSpec&, const TensorEntry&, absl::Span<char>)>& edit) {
  Mutation mutation{name};
  mutation.edit_files = [edit](const std::string& dir, const ModelSpec& spec) {
    EditTensors(
        dir, [&](const TensorEntry& entry, absl::Span<char> bytes) { edit(spec, entry, bytes); });
  };
  return mutation;
}

// Seen by the shapes of tensors; `refusal` is said at load.
Mutation Refused(const std::string& name, const std::string& refusal,
                 const std::function<void(ModelSpec&)>& edit) {
  Mutation mutation{name, edit};
  mutation.refusal = refusal;
  return mutation;
}

// Moves the first `step` bytes to the end.
void Rotate(absl::Span<char> bytes, size_t step) {
  std::rotate(bytes.begin(), bytes.begin() + static_cast<int64_t>(step), bytes.end());
}

// Moves every KV head's rows to the next head's place, in K and V: each group of query heads then
// attends to a neighbour's keys and values, as with a wrong mapping of query to KV heads. With a
// single KV head there is nothing to mistake.
Mutation OtherKvHeads() {
  Mutation mutation = OnFiles("another KV head", [](const ModelSpec& spec, const TensorEntry& entry,
                                                    absl::Span<char> bytes) {
    const size_t heads = static_cast<size_t>(spec.num_kv_heads);
    if (absl::EndsWith(entry.name, "k_proj.weight") ||
        absl::EndsWith(entry.name, "v_proj.weight")) {
      Rotate(bytes, bytes.size() / heads);
    }
    if (!absl::EndsWith(entry.name, "qkv_proj.weight")) return;
    const size_t head = bytes.size() / (static_cast<size_t>(spec.num_heads) + 2 * heads);
    const size_t keys = static_cast<size_t>(spec.num_heads) * head;
    Rotate(bytes.subspan(keys, heads * head), head);
    Rotate(bytes.subspan(keys + heads * head), head);
  });
  mutation.applies = [](const ModelSpec& spec) { return spec.num_kv_heads > 1; };
  return mutation;
}

// A head that is not the embedding.
Mutation OwnHead() {
  Mutation mutation{"a head of its own", [](ModelSpec& spec) { spec.tied_head = false; }};
  mutation.edit_files = [](const std::string& dir, const ModelSpec& spec) {
    ModelSpec untied = spec;
    untied.tied_head = false;
    for (const WeightSpec& weight : WeightTable(untied)) {
      if (weight.slot != WeightSlot::kHead) continue;
      std::vector<float> values(static_cast<size_t>(weight.Elements()));
      for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
      AddTensor(dir, weight.name, weight.shape, values);
    }
  };
  return mutation;
}

using Table = std::map<std::string, std::vector<Mutation>>;

void AddRopes(Table& table) {
  table["rope_linear"] = table["rope_llama3"] = {NoScaling()};
  table["rope_yarn"] = {NoScaling(), NoAttentionFactor()};
  table["rope_longrope_short"] =
      table["rope_longrope_long"] = {NoScaling(), NoAttentionFactor(), OtherLongRope()};
  Mutation never{"no switch"};
  never.at_switch = AtSwitch::kKeepShort;
  Mutation mixed{"long factors for new tokens alone"};
  mixed.at_switch = AtSwitch::kNewTokensAlone;
  table["rope_switch"] = {never, mixed};
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
  const auto activation = [](const std::string& name, ActivationKind kind) {
    return Mutation{name, [kind](ModelSpec& spec) { spec.activation = kind; }};
  };
  table["gelu_tanh"] = {activation("SiLU", ActivationKind::kSilu),
                        activation("GELU without the approximation", ActivationKind::kGelu)};
  table["gelu"] = {activation("SiLU", ActivationKind::kSilu),
                   activation("GELU by tanh", ActivationKind::kGeluTanh)};
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

// The tests compute in float32 on the host.
void Fill(TensorView weight, float value) { std::fill_n(weight.as<float>(), weight.size(), value); }

// All elements 1, as if it were not there.
void Neutralize(TensorView weight) { Fill(weight, 1.0f); }

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
  table["dense_layers"] = {Refused("experts in every layer", "lacks tensor 'model.layers.",
                                   [](ModelSpec& spec) {
                                     for (LayerSpec& layer : spec.layers) layer.experts = true;
                                   }),
                           OnLayers("no dense MLP", [](LayerWeights& layer) {
                             if (layer.router == nullptr) Fill(layer.post_norm, 0.0f);
                           })};
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
}

void AddFloat8(Table& table) {
  const auto on_scales =
      [](const std::string& name,
         const std::function<void(const TensorEntry&, absl::Span<float>)>& edit) {
        return OnFiles(name,
                       [edit](const ModelSpec&, const TensorEntry& entry, absl::Span<char> bytes) {
                         if (!absl::EndsWith(entry.name, "_scale_inv")) return;
                         std::vector<float> scales(bytes.size() / sizeof(float));
                         std::memcpy(scales.data(), bytes.data(), bytes.size());
                         edit(entry, absl::MakeSpan(scales));
                         std::memcpy(bytes.data(), scales.data(), bytes.size());
                       });
      };
  table["float8"] = {
      Refused("no block scales", "is float8_e4m3", [](ModelSpec& spec) { spec.float8 = {}; }),
      on_scales("scales of 1",
                [](const TensorEntry&, absl::Span<float> scales) {
                  std::fill(scales.begin(), scales.end(), 1.0f);
                }),
      on_scales("blocks transposed",
                [](const TensorEntry& entry, absl::Span<float> scales) {
                  const std::vector<float> stored(scales.begin(), scales.end());
                  const size_t rows = static_cast<size_t>(entry.shape[0]);
                  const size_t columns = static_cast<size_t>(entry.shape[1]);
                  for (size_t i = 0; i < scales.size(); ++i) {
                    scales[i] = stored[i % columns * rows + i / columns];
                  }
                }),
      on_scales("the next block's scale", [](const TensorEntry&, absl::Span<float> scales) {
        std::rotate(scales.begin(), scales.begin() + 1, scales.end());
      })};
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
  const char* shape = "has the shape";
  table["gqa"] = {OtherKvHeads(), Refused("a KV head per query head", shape, [](ModelSpec& spec) {
                    spec.num_kv_heads = spec.num_heads;
                  })};
  table["mha"] = {OtherKvHeads(), Refused("half the KV heads", shape,
                                          [](ModelSpec& spec) { spec.num_kv_heads /= 2; })};
  const auto square = [](const ModelSpec& spec) { return spec.hidden_size / spec.num_heads; };
  table["head_dim"] = {Refused("heads as wide as hidden / heads", shape,
                               [square](ModelSpec& spec) { spec.head_size = square(spec); }),
                       {"scores scaled as if they were", [square](ModelSpec& spec) {
                          spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(square(spec)));
                        }}};
  table["tied_head"] = {OwnHead(), Refused("no head", "lm_head.weight",
                                           [](ModelSpec& spec) { spec.tied_head = false; })};
  table["fused"] = {OnFiles("gate and up exchanged",
                            [](const ModelSpec&, const TensorEntry& entry, absl::Span<char> bytes) {
                              if (absl::EndsWith(entry.name, "gate_up_proj.weight"))
                                Rotate(bytes, bytes.size() / 2);
                            })};
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
  AddFloat8(table);
  return table;
}

std::set<std::string> FeaturesOfFiles() {
  return {"float32", "bfloat16", "float16", "sharded", "demo"};
}

}  // namespace tessera
