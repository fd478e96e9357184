// vLLM's names: which there are, and that they say what ours say.

#include "coordinator/telemetry/vllm_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/telemetry/metric_table.h"
#include "coordinator/telemetry/metrics.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Exposed(bool vllm_names) {
  Metrics metrics({"m"}, {.vllm_names = vllm_names});
  metrics.model(0).requests_waiting->Set(3);
  metrics.model(0).kv_block_tokens->Set(16);
  const KvBlockGauges blocks = metrics.kv_blocks(0, 0);
  blocks.held->Set(30);
  blocks.cached->Set(20);
  blocks.empty->Set(3'000'000);
  metrics.kv_blocks(0, 1).held->Set(7);  // a second KvGroup
  for (const char* reason :
       {"stop", "stop", "length", "cancelled", "deadline", "rejected", "error"}) {
    metrics.CountFinished(0, reason);
  }
  for (const double seconds : {0.007, 0.07, 3.0}) {
    metrics.model(0).inter_token_latency->Observe(seconds);
  }
  return metrics.Expose();
}

// Name -> type of the families whose names begin like this.
std::map<std::string, std::string> Types(const std::string& text, const std::string& prefix) {
  std::map<std::string, std::string> types;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string hash, keyword, name, type;
    words >> hash >> keyword >> name >> type;
    if (keyword == "TYPE" && name.starts_with(prefix)) types[name] = type;
  }
  return types;
}

TEST(VllmNamesTest, AreShownOnlyWhenAskedForAndChangeNothingElse) {
  const std::string without = Exposed(false);
  const std::string with = Exposed(true);
  EXPECT_THAT(without, Not(HasSubstr("vllm:")));
  EXPECT_EQ(Types(with, "tessera_"), Types(without, "tessera_"));
}

TEST(VllmNamesTest, AreExactlyThese) {
  const std::map<std::string, std::string> expected = {
      {"vllm:num_requests_running", "gauge"},
      {"vllm:num_requests_waiting", "gauge"},
      {"vllm:num_requests_waiting_by_reason", "gauge"},
      {"vllm:kv_cache_usage_perc", "gauge"},
      {"vllm:cache_config_info", "gauge"},
      {"vllm:prompt_tokens_total", "counter"},
      {"vllm:prompt_tokens_cached_total", "counter"},
      {"vllm:generation_tokens_total", "counter"},
      {"vllm:prefix_cache_queries_total", "counter"},
      {"vllm:prefix_cache_hits_total", "counter"},
      {"vllm:num_preemptions_total", "counter"},
      {"vllm:request_success_total", "counter"},
      {"vllm:admission_rejections_total", "counter"},
      {"vllm:time_to_first_token_seconds", "histogram"},
      {"vllm:inter_token_latency_seconds", "histogram"},
      {"vllm:time_per_output_token_seconds", "histogram"},
      {"vllm:request_time_per_output_token_seconds", "histogram"},
      {"vllm:e2e_request_latency_seconds", "histogram"},
      {"vllm:request_queue_time_seconds", "histogram"},
      {"vllm:request_inference_time_seconds", "histogram"},
      {"vllm:request_prefill_time_seconds", "histogram"},
      {"vllm:request_decode_time_seconds", "histogram"},
      {"vllm:request_prompt_tokens", "histogram"},
      {"vllm:request_generation_tokens", "histogram"},
      {"vllm:request_max_num_generation_tokens", "histogram"},
      {"vllm:request_params_n", "histogram"},
      {"vllm:request_params_max_tokens", "histogram"},
      {"vllm:request_prefill_kv_computed_tokens", "histogram"},
      {"vllm:iteration_tokens_total", "histogram"},
  };
  EXPECT_EQ(Types(Exposed(true), "vllm:"), expected);
}

TEST(VllmNamesTest, ShowMetricsThatAreThereInBoundsThatTheyHave) {
  std::map<std::string, BucketSet> sources;
  for (const MetricRow& row : MetricTable()) sources[row.name] = row.buckets;
  for (const VllmName& name : VllmNames()) {
    ASSERT_TRUE(sources.contains(name.source)) << name.source;
    const std::vector<double> ours = BucketsOf(sources[name.source]);
    EXPECT_TRUE(std::includes(ours.begin(), ours.end(), name.bounds.begin(), name.bounds.end()))
        << name.name;
  }
}

TEST(VllmNamesTest, SeriesHaveTheirLabels) {
  const std::string text = Exposed(true);
  for (
      const char* line :
      {"vllm:num_requests_waiting{model_name=\"m\",engine=\"0\"} 3\n",
       "vllm:num_requests_waiting_by_reason{model_name=\"m\",engine=\"0\",reason=\"capacity\"} 3\n",
       "vllm:cache_config_info{model_name=\"m\",engine=\"0\",block_size=\"16\",num_gpu_blocks="
       "\"3000050\"} 1\n",
       "vllm:request_success_total{model_name=\"m\",engine=\"0\",finished_reason=\"stop\"} 2\n",
       "vllm:request_success_total{model_name=\"m\",engine=\"0\",finished_reason=\"length\"} 1\n",
       "vllm:request_success_total{model_name=\"m\",engine=\"0\",finished_reason=\"abort\"} 2\n",
       "vllm:request_success_total{model_name=\"m\",engine=\"0\",finished_reason=\"error\"} 1\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("finished_reason=\"rejected\"")));
}

TEST(VllmNamesTest, CoarserBucketsCountTheSame) {
  const std::string text = Exposed(true);
  const auto bucket = [](const char* bound, int count) {
    return absl::StrCat(
        "vllm:inter_token_latency_seconds_bucket{model_name=\"m\",engine=\"0\",le=\"", bound,
        "\"} ", count, "\n");
  };
  EXPECT_THAT(text, Not(HasSubstr("vllm:inter_token_latency_seconds_bucket{model_name=\"m\",engine="
                                  "\"0\",le=\"0.005\"}")));
  EXPECT_THAT(text, HasSubstr(bucket("0.01", 1)));
  EXPECT_THAT(text, HasSubstr(bucket("0.075", 2)));
  EXPECT_THAT(text, HasSubstr(bucket("2.5", 2)));
  EXPECT_THAT(text, HasSubstr(bucket("80", 3)));
  EXPECT_THAT(text, HasSubstr(bucket("+Inf", 3)));
  EXPECT_THAT(
      text, HasSubstr("vllm:inter_token_latency_seconds_count{model_name=\"m\",engine=\"0\"} 3\n"));
}

}  // namespace
}  // namespace tessera
