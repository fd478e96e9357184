// The names, and how a family is shown under one of them. Cumulative buckets stay right when
// bounds are left out, so ours may be finer than vLLM's.

#include "coordinator/telemetry/vllm_names.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;

using Labels = std::vector<ClientMetric::Label>;

constexpr char kEngine[] = "0";  // there is one engine per coordinator

const std::string* Find(const Labels& labels, std::string_view name) {
  for (const ClientMetric::Label& label : labels) {
    if (label.name == name) return &label.value;
  }
  return nullptr;
}

std::string Whole(double count) { return absl::StrCat(static_cast<int64_t>(count)); }

// vLLM's word for how a request ended; empty: it does not count those.
std::string_view FinishedReason(std::string_view ours) {
  if (ours == "cancelled" || ours == "deadline") return "abort";
  return ours == "rejected" ? "" : ours;
}

void KeepBounds(const std::vector<double>& bounds, ClientMetric& metric) {
  if (bounds.empty()) return;
  std::erase_if(metric.histogram.bucket, [&](const ClientMetric::Bucket& bucket) {
    const bool is_last = bucket.upper_bound > bounds.back();  // +Inf
    return !is_last && !std::binary_search(bounds.begin(), bounds.end(), bucket.upper_bound);
  });
}

// Several of our reasons are one of theirs.
void ShowFinished(const MetricFamily& source, MetricFamily& shown) {
  std::map<std::pair<std::string, std::string>, double> sums;  // model, reason
  for (const ClientMetric& metric : source.metric) {
    const std::string_view reason = FinishedReason(*Find(metric.label, "finish_reason"));
    if (reason.empty()) continue;
    sums[{*Find(metric.label, "model_name"), std::string(reason)}] += metric.counter.value;
  }
  for (const auto& [key, sum] : sums) {
    ClientMetric& metric = shown.metric.emplace_back();
    metric.label = {
        {"model_name", key.first}, {"engine", kEngine}, {"finished_reason", key.second}};
    metric.counter.value = sum;
  }
}

// `source` is the tokens of a block; the number of blocks is looked up in `families`.
void ShowCacheConfig(const std::vector<MetricFamily>& families, const MetricFamily& source,
                     MetricFamily& shown) {
  std::map<std::string, double> num_blocks;  // by model, of its first KV group
  for (const MetricFamily& family : families) {
    if (family.name != "tessera_kv_cache_blocks") continue;
    for (const ClientMetric& metric : family.metric) {
      if (*Find(metric.label, "kv_group") != "0") continue;
      num_blocks[*Find(metric.label, "model_name")] += metric.gauge.value;
    }
  }
  for (const ClientMetric& metric : source.metric) {
    const std::string& model = *Find(metric.label, "model_name");
    ClientMetric& info = shown.metric.emplace_back();
    info.label = {{"model_name", model},
                  {"engine", kEngine},
                  {"block_size", Whole(metric.gauge.value)},
                  {"num_gpu_blocks", Whole(num_blocks[model])}};
    info.gauge.value = 1;
  }
}

MetricFamily Show(const VllmName& name, const MetricFamily& source,
                  const std::vector<MetricFamily>& families) {
  MetricFamily shown;
  shown.name = name.name;
  shown.help = absl::StrCat("vLLM's name for ", name.source, ".");
  shown.type = source.type;
  if (name.labels == VllmLabels::kFinishReason) {
    ShowFinished(source, shown);
  } else if (name.labels == VllmLabels::kCacheConfigInfo) {
    ShowCacheConfig(families, source, shown);
  } else {
    shown.metric = source.metric;
    for (ClientMetric& metric : shown.metric) {
      metric.label.push_back({"engine", kEngine});
      if (name.labels == VllmLabels::kWaitsForRoom) metric.label.push_back({"reason", "capacity"});
      KeepBounds(name.bounds, metric);
    }
  }
  return shown;
}

}  // namespace

std::vector<VllmName> VllmNames() {
  const std::vector<double> token = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                     0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
  const std::vector<double> request = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                       30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
  const std::vector<double> iteration = {1,   8,    16,   32,   64,   128,  256,
                                         512, 1024, 2048, 4096, 8192, 16384};
  const VllmLabels same = VllmLabels::kSame;
  return {
      {"vllm:num_requests_running", "tessera_requests_running"},
      {"vllm:num_requests_waiting", "tessera_requests_waiting"},
      {"vllm:num_requests_waiting_by_reason", "tessera_requests_waiting",
       VllmLabels::kWaitsForRoom},
      {"vllm:kv_cache_usage_perc", "tessera_kv_cache_usage_ratio"},
      {"vllm:cache_config_info", "tessera_kv_cache_block_tokens", VllmLabels::kCacheConfigInfo},
      {"vllm:prompt_tokens_total", "tessera_prompt_tokens_total"},
      {"vllm:prompt_tokens_cached_total", "tessera_cached_prompt_tokens_total"},
      {"vllm:generation_tokens_total", "tessera_generation_tokens_total"},
      {"vllm:prefix_cache_queries_total", "tessera_prefix_cache_queries_total"},
      {"vllm:prefix_cache_hits_total", "tessera_prefix_cache_hits_total"},
      {"vllm:num_preemptions_total", "tessera_preemptions_total"},
      {"vllm:request_success_total", "tessera_requests_total", VllmLabels::kFinishReason},
      {"vllm:admission_rejections_total", "tessera_admission_rejections_total"},
      {"vllm:time_to_first_token_seconds", "tessera_time_to_first_token_seconds"},
      {"vllm:inter_token_latency_seconds", "tessera_inter_token_latency_seconds", same, token},
      {"vllm:time_per_output_token_seconds", "tessera_inter_token_latency_seconds", same, token},
      {"vllm:request_time_per_output_token_seconds",
       "tessera_request_time_per_output_token_seconds", same, token},
      {"vllm:e2e_request_latency_seconds", "tessera_e2e_request_latency_seconds", same, request},
      {"vllm:request_queue_time_seconds", "tessera_request_queue_time_seconds", same, request},
      {"vllm:request_inference_time_seconds", "tessera_request_inference_time_seconds", same,
       request},
      {"vllm:request_prefill_time_seconds", "tessera_request_prefill_time_seconds", same, request},
      {"vllm:request_decode_time_seconds", "tessera_request_decode_time_seconds", same, request},
      {"vllm:request_prompt_tokens", "tessera_request_prompt_tokens"},
      {"vllm:request_generation_tokens", "tessera_request_generation_tokens"},
      {"vllm:request_max_num_generation_tokens", "tessera_request_longest_generation_tokens"},
      {"vllm:request_params_n", "tessera_request_choices", same, {1, 2, 5, 10, 20}},
      {"vllm:request_params_max_tokens", "tessera_request_max_tokens"},
      {"vllm:request_prefill_kv_computed_tokens", "tessera_request_computed_prompt_tokens"},
      {"vllm:iteration_tokens_total", "tessera_step_tokens", same, iteration},
  };
}

void AppendVllmNames(std::vector<MetricFamily>& families) {
  std::vector<MetricFamily> shown;
  for (const VllmName& name : VllmNames()) {
    for (const MetricFamily& family : families) {
      if (family.name == name.source) shown.push_back(Show(name, family, families));
    }
  }
  families.insert(families.end(), std::make_move_iterator(shown.begin()),
                  std::make_move_iterator(shown.end()));
}

}  // namespace tessera
