// Every metric: its row in the reference, its name, its bounds.

#include "coordinator/telemetry/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/telemetry/metric_table.h"

namespace tessera {
namespace {

using testing::HasSubstr;
using testing::Not;

// At least one series of every family.
void TouchEverything(Metrics& metrics) {
  metrics.CountFinished(0, "stop");
  metrics.CountRejected(0, "queue_requests");
  metrics.CountHttp("/livez", 200);
  metrics.CountGrpc("Generate", "OK");
  metrics.ObserveRank(0, 0, 1, 1, 1);
  metrics.AddRankDeviceSeconds(0, 0, "compute", 1);
  metrics.AddRankExpertTokens(0, 0, 1);
  metrics.AddGpuSeconds(0, "t", "prefill", 1);
  metrics.SetGpuHourlyPrice(0, "EUR", 2);
  metrics.AddGpuEnergy(0, 0, 1);
  metrics.kv_blocks(0, 0);
  metrics.rank_skew(0);
  metrics.SetGroupLoadTime(0, 0, 1);
  metrics.tenant("t");
  metrics.CountTenantFinished("t", "stop");
  metrics.CountTenantRefused("t", "tokens_per_minute");
  metrics.CountAuthFailure("missing");
}

TEST(MetricsTest, EveryRowOfTheTableIsExposedWithItsTypeLabelsAndMeaning) {
  Metrics metrics({"m"});
  TouchEverything(metrics);
  const std::string text = absl::StrCat("\n", metrics.Expose());
  size_t families = 0;
  for (const MetricRow& row : MetricTable()) {
    ++families;
    EXPECT_THAT(text, HasSubstr(absl::StrCat("\n# TYPE ", row.name, " ", TypeOf(row), "\n")));
    EXPECT_THAT(text, HasSubstr(absl::StrCat("\n# HELP ", row.name, " ")));
    // One series with exactly the labels of the row, in the order of their names.
    std::vector<std::string> labels = LabelsOf(row);
    std::sort(labels.begin(), labels.end());
    const std::string histogram = TypeOf(row) == std::string("histogram") ? "_count" : "";
    std::string pattern = absl::StrCat("\n", row.name, histogram);
    for (size_t i = 0; i < labels.size(); ++i) {
      absl::StrAppend(&pattern, i == 0 ? "\\{" : ",", labels[i], "=\"[^\"]*\"");
    }
    absl::StrAppend(&pattern, labels.empty() ? " " : "\\} ");
    EXPECT_TRUE(std::regex_search(text, std::regex(pattern))) << pattern;
  }
  EXPECT_GE(families, 60u);
  size_t types = 0;
  for (size_t at = 0; (at = text.find("\n# TYPE ", at)) != std::string::npos; ++at) ++types;
  EXPECT_EQ(types, families);
}

TEST(MetricsTest, NamesSayTheirUnitAndKind) {
  std::set<std::string> names;
  for (const MetricRow& row : MetricTable()) {
    const std::string name = row.name;
    EXPECT_TRUE(names.insert(name).second) << name << " is there twice";
    const bool is_total = name.size() > 6 && name.substr(name.size() - 6) == "_total";
    EXPECT_EQ(is_total, TypeOf(row) == std::string("counter")) << name;
    EXPECT_EQ(TypeOf(row) == std::string("histogram"), !BucketsOf(row.buckets).empty()) << name;
    EXPECT_TRUE(row.meaning[0] != '\0' && row.unit[0] != '\0') << name;
    const std::vector<double> bounds = BucketsOf(row.buckets);
    EXPECT_TRUE(std::is_sorted(bounds.begin(), bounds.end())) << name;
  }
}

TEST(MetricsTest, TheCommittedReferenceIsThePrintedOne) {
  std::ifstream file(TESSERA_SOURCE_DIR "/coordinator/telemetry/METRICS.md");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  EXPECT_EQ(text, MetricsReference()) << "print it anew: tessera-coordinator --metrics-reference > "
                                         "coordinator/telemetry/METRICS.md";
}

TEST(MetricsTest, MembersAreTheFamiliesTheyAreNamedAfter) {
  Metrics metrics({"a", "b"}, {.version = "9.9"});
  metrics.model(1).prompt_tokens->Increment(3);
  metrics.model(1).requests_running->Set(2);
  metrics.model(0).kv_cache_usage->Set(0.5);
  metrics.model(0).time_to_first_token->Observe(0.03);
  metrics.model(1).ready->Set(1);
  metrics.CountFinished(1, "stop");
  metrics.CountFinished(1, "stop");
  metrics.CountRejected(0, "queue_full");
  metrics.CountHttp("/v1/models/{id}", 404);
  const std::string text = metrics.Expose();
  EXPECT_THAT(text, HasSubstr("tessera_prompt_tokens_total{model_name=\"b\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("tessera_requests_running{model_name=\"b\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("tessera_kv_cache_usage_ratio{model_name=\"a\"} 0.5\n"));
  EXPECT_THAT(
      text,
      HasSubstr("tessera_time_to_first_token_seconds_bucket{model_name=\"a\",le=\"0.04\"} 1\n"));
  EXPECT_THAT(
      text,
      HasSubstr("tessera_time_to_first_token_seconds_bucket{model_name=\"a\",le=\"0.02\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("tessera_model_ready{model_name=\"b\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("tessera_requests_total{finish_reason=\"stop\",model_name=\"b\"} 2\n"));
  EXPECT_THAT(
      text,
      HasSubstr("tessera_admission_rejections_total{model_name=\"a\",reason=\"queue_full\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("tessera_http_requests_total{code=\"404\",route=\"/v1/models/{id}\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("tessera_build_info{version=\"9.9\"} 1\n"));
}

double ValueOf(const std::string& text, const std::string& series) {
  const size_t at = text.find(absl::StrCat("\n", series, " "));
  return at == std::string::npos ? -1 : std::stod(text.substr(at + series.size() + 2));
}

TEST(MetricsTest, TheProcessTellsItsMemoryAndAge) {
  Metrics metrics({"m"});
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const std::string text = metrics.Expose();
  EXPECT_GT(ValueOf(text, "tessera_process_resident_bytes"), 1e6);
  EXPECT_GE(ValueOf(text, "tessera_uptime_seconds"), 0.005);
}

TEST(MetricsTest, RankCountersGrowOverRestarts) {
  Metrics metrics({"m"});
  metrics.ObserveRank(1, 2, 10, 100.5, 4096);
  metrics.ObserveRank(1, 2, 15, 101.5, 8192);
  metrics.ObserveRank(1, 2, 3, 102.5, 8192);  // restarted
  metrics.AddRankDeviceSeconds(1, 2, "compute", 0.25);
  metrics.AddRankDeviceSeconds(1, 2, "compute", 0.25);
  metrics.AddRankDeviceSeconds(1, 2, "compute", -1);  // never backwards
  metrics.SetRankUp(1, 2, true);
  const std::string text = metrics.Expose();
  EXPECT_EQ(ValueOf(text, "tessera_rank_steps_total{group=\"1\",rank=\"2\"}"), 18);
  EXPECT_EQ(ValueOf(text, "tessera_rank_resident_bytes{group=\"1\",rank=\"2\"}"), 8192);
  EXPECT_EQ(ValueOf(text, "tessera_rank_up{group=\"1\",rank=\"2\"}"), 1);
  EXPECT_EQ(
      ValueOf(text, "tessera_rank_device_seconds_total{group=\"1\",kind=\"compute\",rank=\"2\"}"),
      0.5);
  EXPECT_EQ(ValueOf(text, "tessera_rank_last_progress_timestamp_seconds{group=\"1\",rank=\"2\"}"),
            102.5);
}

size_t CountSeries(const std::string& text, const std::string& family) {
  size_t count = 0;
  for (size_t at = text.find(absl::StrCat("\n", family, "{")); at != std::string::npos;
       at = text.find(absl::StrCat("\n", family, "{"), at + 1)) {
    ++count;
  }
  return count;
}

TEST(MetricsTest, LabelsAreBounded) {
  Metrics metrics({"m"});
  for (int i = 0; i < 1000; ++i) {
    metrics.CountHttp(absl::StrCat("/", i), 200);
    metrics.CountFinished(0, absl::StrCat("reason", i));
  }
  for (size_t i = 0; i < 2 * kTenantLabelsMax; ++i) {
    metrics.tenant(absl::StrCat("tenant", i)).generation_tokens->Increment();
    metrics.CountTenantFinished(absl::StrCat("tenant", i), "stop");
    metrics.AddGpuSeconds(0, absl::StrCat("tenant", i), "decode", 1);
  }
  for (uint32_t i = 0; i < 2 * kRankSeriesMax; ++i) metrics.SetRankUp(i / 8, i % 8, true);
  const std::string text = metrics.Expose();
  EXPECT_EQ(CountSeries(text, "tessera_gpu_seconds_total"), kTenantLabelsMax + 1);
  EXPECT_EQ(ValueOf(text,
                    "tessera_gpu_seconds_total{kind=\"decode\",model_name=\"m\",tenant="
                    "\"other\"}"),
            kTenantLabelsMax);
  EXPECT_EQ(CountSeries(text, "tessera_http_requests_total"), kLabelValuesMax + 1);
  EXPECT_EQ(CountSeries(text, "tessera_requests_total"), kLabelValuesMax + 1);
  EXPECT_EQ(CountSeries(text, "tessera_rank_up"), kRankSeriesMax + 1);
  EXPECT_THAT(text, HasSubstr("route=\"other\"} 936\n"));
  EXPECT_EQ(CountSeries(text, "tessera_tenant_generation_tokens_total"), kTenantLabelsMax + 1);
  EXPECT_EQ(CountSeries(text, "tessera_tenant_requests_total"), kTenantLabelsMax + 1);
  EXPECT_EQ(ValueOf(text, "tessera_tenant_generation_tokens_total{tenant=\"other\"}"),
            kTenantLabelsMax);
}

TEST(MetricsTest, ATenantKeepsItsSeries) {
  Metrics metrics({"m"});
  TenantMetrics& first = metrics.tenant("a");
  for (int i = 0; i < 100; ++i) metrics.tenant(absl::StrCat("tenant", i));
  EXPECT_EQ(&metrics.tenant("a"), &first);
  first.prompt_tokens->Increment(3);
  metrics.CountTenantRefused("a", "requests_in_flight");
  metrics.CountTenantFinished("a", "length");
  metrics.CountAuthFailure("expired");
  const std::string text = metrics.Expose();
  EXPECT_EQ(ValueOf(text, "tessera_tenant_prompt_tokens_total{tenant=\"a\"}"), 3);
  EXPECT_EQ(
      ValueOf(text, "tessera_tenant_refusals_total{limit=\"requests_in_flight\",tenant=\"a\"}"), 1);
  EXPECT_EQ(ValueOf(text, "tessera_tenant_requests_total{finish_reason=\"length\",tenant=\"a\"}"),
            1);
  EXPECT_EQ(ValueOf(text, "tessera_authentication_failures_total{reason=\"expired\"}"), 1);
}

// Whether a request met its targets is known of the request alone: histograms cannot tell.
class SloTest : public testing::Test {
 protected:
  // {ttft met, ttft missed, tpot met, tpot missed, all met, all missed} so far.
  std::vector<double> Counted() {
    const std::string text = metrics_.Expose();
    std::vector<double> counted;
    for (const char* slo : {"ttft", "tpot", "all"}) {
      for (const char* met : {"true", "false"}) {
        counted.push_back(ValueOf(text, absl::StrCat("tessera_requests_slo_total{met=\"", met,
                                                     "\",model_name=\"m\",slo=\"", slo, "\"}")));
      }
    }
    return counted;
  }
  static RequestFacts Facts(const char* reason, double first_token, double time_per_token) {
    return {.finish_reason = reason,
            .first_scheduled = first_token < 0 ? -1.0 : 0.0,
            .first_token = first_token,
            .last_token = first_token,
            .ended = 9,
            .time_per_token = time_per_token};
  }

  Metrics metrics_{{"m"}, {.slo = {.first_token_seconds = 1, .token_seconds = 0.1}}};
};

TEST_F(SloTest, ACounterIsThereBeforeItsFirstRequest) {
  EXPECT_EQ(Counted(), (std::vector<double>{0, 0, 0, 0, 0, 0}));
}

TEST_F(SloTest, BothTargetsMakeAGoodRequest) {
  metrics_.ObserveRequest(0, Facts("stop", 1, 0.1));  // just so
  EXPECT_EQ(Counted(), (std::vector<double>{1, 0, 1, 0, 1, 0}));
  metrics_.ObserveRequest(0, Facts("length", 1.01, 0.1));
  EXPECT_EQ(Counted(), (std::vector<double>{1, 1, 2, 0, 1, 1}));
  metrics_.ObserveRequest(0, Facts("length", 0.5, 0.11));
  EXPECT_EQ(Counted(), (std::vector<double>{2, 1, 2, 1, 1, 2}));
  metrics_.ObserveRequest(0, Facts("stop", 0.5, -1));  // a single token
  EXPECT_EQ(Counted(), (std::vector<double>{3, 1, 2, 1, 2, 2}));
}

TEST_F(SloTest, WhatFailedIsNotGoodAndWhatWasCancelledIsNotCounted) {
  metrics_.ObserveRequest(0, Facts("error", 0.5, 0.05));
  EXPECT_EQ(Counted(), (std::vector<double>{1, 0, 1, 0, 0, 1}));
  metrics_.ObserveRequest(0, Facts("deadline", -1, -1));
  EXPECT_EQ(Counted(), (std::vector<double>{1, 1, 1, 0, 0, 2}));
  metrics_.ObserveRequest(0, Facts("cancelled", -1, -1));
  EXPECT_EQ(Counted(), (std::vector<double>{1, 1, 1, 0, 0, 2}));
  metrics_.ObserveRequest(0, Facts("cancelled", 0.5, -1));
  EXPECT_EQ(Counted(), (std::vector<double>{2, 1, 1, 0, 0, 2}));
  metrics_.CountRejected(0, "queue_tokens");
  EXPECT_EQ(Counted(), (std::vector<double>{2, 2, 1, 0, 0, 3}));
  metrics_.CountRejected(0, "invalid");
  EXPECT_EQ(Counted(), (std::vector<double>{2, 2, 1, 0, 0, 3}));
}

TEST_F(SloTest, WithoutATargetEveryAnswerMeetsIt) {
  Metrics metrics({"m"}, {.slo = {.first_token_seconds = 0, .token_seconds = 0}});
  metrics.ObserveRequest(0, Facts("stop", 1000, 1000));
  EXPECT_EQ(ValueOf(metrics.Expose(),
                    "tessera_requests_slo_total{met=\"true\",model_name=\"m\",slo=\"all\"}"),
            1);
}

TEST(MetricsTest, PartsOfARequestsTime) {
  Metrics metrics({"m"});
  metrics.ObserveRequest(0, {.finish_reason = "stop",
                             .first_scheduled = 1,
                             .first_token = 3,
                             .last_token = 8,
                             .ended = 9,
                             .time_per_token = 0.5,
                             .prompt_tokens = 100,
                             .cached_tokens = 64,
                             .output_tokens = 30,
                             .longest_output = 20,
                             .num_choices = 2,
                             .max_tokens = 50});
  metrics.ObserveRequest(0, {.finish_reason = "cancelled", .ended = 2});
  const std::string text = metrics.Expose();
  for (const auto& [name, sum, count] : std::vector<std::tuple<std::string, double, double>>{
           {"e2e_request_latency_seconds", 11, 2},
           {"request_prefill_time_seconds", 2, 1},
           {"request_decode_time_seconds", 5, 1},
           {"request_inference_time_seconds", 7, 1},
           {"request_time_per_output_token_seconds", 0.5, 1},
           {"request_prompt_tokens", 100, 2},
           {"request_computed_prompt_tokens", 36, 2},
           {"request_generation_tokens", 30, 2},
           {"request_longest_generation_tokens", 20, 2},
           {"request_choices", 3, 2},
           {"request_max_tokens", 50, 2}}) {
    EXPECT_EQ(ValueOf(text, absl::StrCat("tessera_", name, "_sum{model_name=\"m\"}")), sum) << name;
    EXPECT_EQ(ValueOf(text, absl::StrCat("tessera_", name, "_count{model_name=\"m\"}")), count)
        << name;
  }
  EXPECT_EQ(ValueOf(text, "tessera_cached_prompt_tokens_total{model_name=\"m\"}"), 64);
}

TEST(MetricsTest, GpuSecondsOnlyGrowAndHaveAKnownKind) {
  Metrics metrics({"m"});
  metrics.AddGpuSeconds(0, "acme", "prefill", 0.25);
  metrics.AddGpuSeconds(0, "acme", "prefill", 0.5);
  metrics.AddGpuSeconds(0, "acme", "prefill", -3);
  metrics.AddGpuSeconds(0, "", "idle_none", 2);
  EXPECT_DEATH(metrics.AddGpuSeconds(0, "", "lunch", 1), "lunch");
  const std::string text = metrics.Expose();
  EXPECT_EQ(
      ValueOf(text, "tessera_gpu_seconds_total{kind=\"prefill\",model_name=\"m\",tenant=\"acme\"}"),
      0.75);
  EXPECT_EQ(
      ValueOf(text, "tessera_gpu_seconds_total{kind=\"idle_none\",model_name=\"m\",tenant=\"\"}"),
      2);
}

TEST(MetricsTest, AModelHasOnePrice) {
  Metrics metrics({"m"});
  metrics.SetGpuHourlyPrice(0, "EUR", 2);
  metrics.SetGpuHourlyPrice(0, "EUR", 3);
  metrics.SetGpuHourlyPrice(0, "USD", 4);
  const std::string text = metrics.Expose();
  EXPECT_EQ(CountSeries(text, "tessera_gpu_hourly_price"), 1u);
  EXPECT_EQ(ValueOf(text, "tessera_gpu_hourly_price{currency=\"USD\",model_name=\"m\"}"), 4);
}

TEST(MetricsTest, APredictionsErrorIsRelativeToWhatWasMeasured) {
  Metrics metrics({"m"});
  metrics.ObserveStepTime(0, 0.5, 1);
  metrics.ObserveStepTime(0, 3, 2);
  const std::string text = metrics.Expose();
  EXPECT_EQ(ValueOf(text, "tessera_step_time_error_ratio_sum{model_name=\"m\"}"), 1);
  EXPECT_EQ(ValueOf(text, "tessera_step_time_error_ratio_count{model_name=\"m\"}"), 2);
}

TEST(MetricsTest, ManyThreads) {
  Metrics metrics({"m"});
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&metrics] {
      for (int n = 0; n < 500; ++n) {
        metrics.CountHttp("/r", 200);
        metrics.tenant(absl::StrCat("t", n % 9)).generation_tokens->Increment();
        metrics.ObserveRank(0, 0, 1, 1, 1);
        if (n % 100 == 0) metrics.Expose();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(metrics.Expose(), HasSubstr("route=\"/r\"} 2000\n"));
}

}  // namespace
}  // namespace tessera
