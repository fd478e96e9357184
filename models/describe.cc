// See describe.h and DescribeMemoryPlan in memory_plan.h.

#include "models/describe.h"

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

std::string RopeText(const ModelSpec& spec) {
  std::string text = absl::StrFormat("theta %g", spec.rope_theta);
  const RopeScaling& scaling = spec.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kLinear) {
    absl::StrAppendFormat(&text, ", linear scaling by %g", scaling.factor);
  } else if (scaling.kind == RopeScaling::Kind::kLlama3) {
    absl::StrAppendFormat(&text, ", llama3 scaling by %g from %d tokens", scaling.factor,
                          scaling.original_context);
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
  std::string text;
  text += Line("architecture", absl::StrCat(spec.architecture, " (family ", spec.family, ")"));
  text += Line("parameters", ParameterText(ParameterCount(spec)));
  text += Line("layers", absl::StrCat(spec.num_layers, ", hidden ", spec.hidden_size,
                                      ", intermediate ", spec.intermediate_size));
  text += Line("heads", absl::StrCat(spec.num_heads, " query, ", spec.num_kv_heads, " KV, of ",
                                     spec.head_size, " elements"));
  text += Line("vocabulary", absl::StrCat(spec.vocab_size, " tokens, head ",
                                          spec.tied_head ? "tied to the embedding" : "of its own"));
  text += Line("context", absl::StrCat(spec.context_max, " tokens"));
  text += Line("rope", RopeText(spec));
  if (!biases.empty()) text += Line("biases", absl::StrJoin(biases, "; "));
  text += Line("stored as", DTypeName(spec.checkpoint_dtype));
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
