// See describe.h and DescribeMemoryPlan in memory_plan.h.

#include "models/describe.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "models/memory_plan.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

std::string Line(std::string_view label, std::string_view value) {
  return absl::StrFormat("%-14s %s\n", label, value);
}

std::string ParameterText(int64_t count) {
  if (count >= 1'000'000'000) return absl::StrFormat("%.2f billion (%d)", count * 1e-9, count);
  return absl::StrFormat("%.2f million (%d)", count * 1e-6, count);
}

std::string RopeText(const ModelSpec& spec, const RotarySpec& rope) {
  std::string text = absl::StrFormat("theta %g", rope.theta);
  if (spec.latent.kv_rank == 0 && rope.rotary_size != spec.head_size) {
    absl::StrAppendFormat(&text, " on %d of %d elements", rope.rotary_size, spec.head_size);
  }
  const RopeScaling& scaling = rope.scaling;
  const char* name = "";
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
      return text;
    case RopeScaling::Kind::kLinear:
      absl::StrAppendFormat(&text, ", linear scaling by %g", scaling.factor);
      return text;
    case RopeScaling::Kind::kLongRope:
      absl::StrAppendFormat(&text, ", longrope: long factors for sequences beyond %d tokens",
                            scaling.original_context);
      return text;
    case RopeScaling::Kind::kLlama3:
      name = "llama3";
      break;
    case RopeScaling::Kind::kYarn:
      name = "yarn";
      break;
  }
  absl::StrAppendFormat(&text, ", %s scaling by %g from %d tokens", name, scaling.factor,
                        scaling.original_context);
  return text;
}

// Which layers have a window, or "".
std::string WindowText(const ModelSpec& spec) {
  std::string text;
  for (const KvGroup& group : spec.kv_groups) {
    if (group.kind != KvGroup::Kind::kWindow) continue;
    absl::StrAppendFormat(&text, "%s%d tokens in %d of %d layers", text.empty() ? "" : "; ",
                          group.window, group.layers.size(), spec.num_layers);
  }
  return text;
}

// What scores are multiplied by if nothing is said.
float PlainScoreScale(const ModelSpec& spec) {
  const LatentSpec& latent = spec.latent;
  const int64_t head = latent.kv_rank == 0 ? spec.head_size : latent.nope_size + latent.rope_size;
  return 1.0f / std::sqrt(static_cast<float>(head));
}

// What sets the model apart from a plain one, or "".
std::string ChoicesText(const ModelSpec& spec) {
  std::vector<std::string> choices;
  if (spec.activation != ActivationKind::kSilu) {
    choices.push_back(spec.activation == ActivationKind::kGelu ? "GELU" : "GELU by tanh");
  }
  if (spec.embedding_scale != 1.0f) {
    choices.push_back(absl::StrFormat("embedding times %g", spec.embedding_scale));
  }
  if (spec.norm_plus_one) choices.push_back("norms by 1 + weight");
  if (spec.layer_norm) choices.push_back("layer norms");
  if (spec.qk_norm) choices.push_back("norms of query and key heads");
  if (spec.attention_out_norm) choices.push_back("norms behind attention");
  if (spec.mlp_out_norm) choices.push_back("norms behind the MLP");
  const float plain = PlainScoreScale(spec);
  if (std::abs(spec.attention_scale - plain) > 1e-4f * plain) {
    choices.push_back(
        absl::StrFormat("scores times %g (heads alone: %g)", spec.attention_scale, plain));
  }
  if (spec.attention_softcap != 0) {
    choices.push_back(absl::StrFormat("scores capped at %g", spec.attention_softcap));
  }
  if (spec.final_softcap != 0) {
    choices.push_back(absl::StrFormat("logits capped at %g", spec.final_softcap));
  }
  return absl::StrJoin(choices, ", ");
}

std::string HeadsText(const ModelSpec& spec) {
  const LatentSpec& latent = spec.latent;
  if (latent.kv_rank == 0) {
    return absl::StrCat(spec.num_heads, " query, ", spec.num_kv_heads, " KV, of ", spec.head_size,
                        " elements");
  }
  return absl::StrCat(spec.num_heads, " of ", latent.nope_size, " + ", latent.rope_size,
                      " elements, values of ", latent.value_size, "; the cache keeps ",
                      latent.kv_rank, " + ", latent.rope_size, " for all of them");
}

// Of a model that has them.
std::string ExpertsText(const ModelSpec& spec) {
  const MoeSpec& moe = spec.moe;
  std::string text = absl::StrFormat("%d of %d, intermediate %d", moe.experts_per_token,
                                     moe.num_experts, moe.expert_intermediate);
  if (moe.num_groups > 1) {
    absl::StrAppendFormat(&text, ", from %d of %d groups", moe.groups_per_token, moe.num_groups);
  }
  if (moe.shared_intermediate > 0) {
    absl::StrAppendFormat(&text, ", beside one of %d for all tokens", moe.shared_intermediate);
  }
  const auto layers = std::count_if(spec.layers.begin(), spec.layers.end(),
                                    [](const LayerSpec& layer) { return layer.experts; });
  if (HasDenseLayers(spec)) {
    absl::StrAppendFormat(&text, "; in %d of %d layers", layers, spec.num_layers);
  }
  return text;
}

std::string StoredText(const ModelSpec& spec) {
  std::string text = DTypeName(spec.checkpoint_dtype);
  if (spec.float8.rows > 0) {
    absl::StrAppendFormat(&text, ", weights may be float8 with a scale for %d x %d of them",
                          spec.float8.rows, spec.float8.columns);
  }
  if (spec.draft_layers > 0) {
    absl::StrAppendFormat(&text, "; layers that draft further tokens: %d, passed over",
                          spec.draft_layers);
  }
  return text;
}

std::string TensorParallelText(const ModelSpec& spec) {
  std::vector<int> sizes;
  for (const int tp : kTensorParallelSizes) {
    if (CheckTensorParallel(spec, tp).ok()) sizes.push_back(tp);
  }
  return absl::StrJoin(sizes, ", ");
}

}  // namespace

std::string FormatBytes(uint64_t bytes) {
  const double n = static_cast<double>(bytes);
  if (bytes >= 1ull << 30) return absl::StrFormat("%.2f GiB", n / (1ull << 30));
  if (bytes >= 1ull << 20) return absl::StrFormat("%.1f MiB", n / (1ull << 20));
  return absl::StrFormat("%.1f KiB", n / 1024);
}

std::string DescribeModel(const ModelSpec& spec, const std::string& license) {
  std::vector<std::string> biases;
  if (spec.qkv_bias) biases.push_back("q, k, v");
  if (spec.output_bias) biases.push_back("attention output");
  if (spec.mlp_bias) biases.push_back("MLP");
  if (spec.head_bias) biases.push_back("head");
  std::string text;
  text += Line("architecture", absl::StrCat(spec.architecture, " (family ", spec.family, ")"));
  text += Line("parameters", ParameterText(ParameterCount(spec)));
  text += Line("layers", absl::StrCat(spec.num_layers, ", hidden ", spec.hidden_size,
                                      ", intermediate ", spec.intermediate_size));
  text += Line("heads", HeadsText(spec));
  if (spec.moe.num_experts > 0) {
    text += Line("experts", ExpertsText(spec));
    text += Line("active", ParameterText(ActiveParameterCount(spec)));
  }
  text += Line("vocabulary", absl::StrCat(spec.vocab_size, " tokens, head ",
                                          spec.tied_head ? "tied to the embedding" : "of its own"));
  text += Line("context", absl::StrCat(spec.context_max, " tokens"));
  if (const std::string window = WindowText(spec); !window.empty()) text += Line("window", window);
  for (const RotarySpec& rope : spec.ropes) text += Line("rope", RopeText(spec, rope));
  if (const std::string choices = ChoicesText(spec); !choices.empty()) {
    text += Line("also", choices);
  }
  if (!biases.empty()) text += Line("biases", absl::StrJoin(biases, "; "));
  text += Line("stored as", StoredText(spec));
  text += Line("tp", TensorParallelText(spec));
  if (!license.empty()) text += Line("licence", license);
  return text;
}

std::string DescribeMemoryPlan(const ModelSpec& spec, const MemoryRequest& request,
                               const MemoryPlan& plan) {
  std::string text;
  text +=
      Line("ranks", absl::StrCat(request.tp, request.tp == 1 ? "" : ", figures are of one rank"));
  text += Line("weights",
               absl::StrCat(FormatBytes(plan.weight_bytes()), " ", DTypeName(request.dtype), " (",
                            FormatBytes(plan.weight_bytes_replicated), " of it on every rank)"));
  text +=
      Line("activations", absl::StrCat(FormatBytes(plan.activation_bytes), " for steps of ",
                                       request.tokens_max, " tokens, ", request.rows_max, " rows"));
  text +=
      Line("KV cache",
           absl::StrCat(FormatBytes(plan.kv_bytes), " ", DTypeName(request.kv_dtype), ", ",
                        FormatBytes(plan.kv_bytes_per_token), " per token, ",
                        absl::StrJoin(plan.num_blocks, " + "), " blocks of ", request.block_size));
  if (!WindowText(spec).empty()) {
    text += Line("sequence", absl::StrCat(FormatBytes(plan.kv_bytes_per_sequence), " for ",
                                          plan.context_max, " tokens"));
  }
  text += Line("reserve", FormatBytes(plan.reserve_bytes));
  text += Line("total", absl::StrCat(FormatBytes(plan.total_bytes()), " of ",
                                     FormatBytes(request.budget_bytes)));
  text +=
      Line("holds", absl::StrFormat("%d tokens: %.1f sequences of %d (the model's context is %d)",
                                    plan.kv_tokens, plan.sequences_at_context_max, plan.context_max,
                                    spec.context_max));
  return text;
}

}  // namespace tessera
