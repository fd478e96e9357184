// Every metric: its row in the reference, its name, its bounds.

#include "coordinator/telemetry/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using testing::HasSubstr;
using testing::Not;

// Name -> type of every family, each with at least one series.
std::map<std::string, std::string> ExposedFamilies() {
  Metrics metrics({"m"});
  metrics.CountFinished(0, "stop");
  metrics.CountRejected(0, "queue_full");
  metrics.CountHttp("/livez", 200);
  metrics.CountGrpc("Generate", "OK");
  metrics.ObserveRank(0, 0, 1, 1, 1);
  metrics.AddRankDeviceSeconds(0, 0, "compute", 1);
  metrics.AddRankExpertTokens(0, 0, 1);
  metrics.tenant("t");
  metrics.CountTenantFinished("t", "stop");
  metrics.CountTenantRefused("t", "tokens_per_minute");
  metrics.CountAuthFailure("missing");
  std::map<std::string, std::string> families;
  std::istringstream text(metrics.Expose());
  std::string hash, keyword, name, type;
  for (std::string line; std::getline(text, line);) {
    std::istringstream words(line);
    if (words >> hash >> keyword >> name >> type && hash == "#" && keyword == "TYPE") {
      families[name] = type;
    }
  }
  return families;
}

// Rows "| `tessera_x` | counter | ..." of the reference.
std::map<std::string, std::string> DocumentedFamilies() {
  std::ifstream file(TESSERA_SOURCE_DIR "/coordinator/telemetry/README.md");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  std::map<std::string, std::string> families;
  const std::regex row(R"(\| `(tessera_[a-z0-9_]+)` \| (\w+) \|)");
  for (std::sregex_iterator it(text.begin(), text.end(), row), end; it != end; ++it) {
    families[(*it)[1]] = (*it)[2];
  }
  return families;
}

TEST(MetricsTest, TheReferenceListsEveryFamilyAndNoOther) {
  EXPECT_GE(ExposedFamilies().size(), 25u);
  EXPECT_EQ(DocumentedFamilies(), ExposedFamilies());
}

TEST(MetricsTest, MembersAreTheFamiliesTheyAreNamedAfter) {
  Metrics metrics({"a", "b"}, "9.9");
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
  }
  for (uint32_t i = 0; i < 2 * kRankSeriesMax; ++i) metrics.SetRankUp(i / 8, i % 8, true);
  const std::string text = metrics.Expose();
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
