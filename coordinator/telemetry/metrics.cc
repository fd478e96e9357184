// Names, buckets and labels of every exported metric. A family that is added here needs its row in
// coordinator/telemetry/README.md; a test compares the two.

#include "coordinator/telemetry/metrics.h"

#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <set>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/check.h"

namespace tessera {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using Buckets = Histogram::BucketBoundaries;

// Seconds. First token: the peers' buckets, so that quantiles compare.
Buckets FirstTokenBuckets() {
  return {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
          1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
}

// Seconds between two tokens, and of one step.
Buckets TokenBuckets() {
  return {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15,
          0.2,    0.3,   0.4,    0.5,   0.75, 1,     2.5,  5,     10,  40};
}

// Seconds of whole requests and of waiting.
Buckets RequestBuckets() {
  return {0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1,   1.5, 2,   2.5, 5,
          10,    15,   20,   30,  40,  50,  60,  120, 240, 480, 960, 1920};
}

// 1-2-5 series, for tokens and rows.
Buckets CountBuckets(double limit) {
  Buckets buckets;
  for (double decade = 1; decade <= limit; decade *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      if (decade * step <= limit) buckets.push_back(decade * step);
    }
  }
  return buckets;
}

// Bytes of the process in memory, from /proc; 0 where there is none.
double ResidentBytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  unsigned long long total_pages = 0;
  unsigned long long resident_pages = 0;
  const int read = std::fscanf(file, "%llu %llu", &total_pages, &resident_pages);
  std::fclose(file);
  return read == 2
             ? static_cast<double>(resident_pages) * static_cast<double>(sysconf(_SC_PAGESIZE))
             : 0;
}

// The first `values_max` values of a label as they are, then "other".
class LabelBound {
 public:
  explicit LabelBound(size_t values_max = kLabelValuesMax) : values_max_(values_max) {}

  const std::string& Bound(const std::string& value) {
    if (values_.contains(value)) return value;
    if (values_.size() >= values_max_) return other_;
    values_.insert(value);
    return value;
  }

 private:
  const size_t values_max_;
  const std::string other_ = "other";
  std::set<std::string> values_;
};

struct RankSeries {
  Counter* steps;
  Gauge* last_progress;
  Gauge* resident_bytes;
  Gauge* up;
  prometheus::Labels labels;
  uint64_t steps_seen = 0;  // as the rank last reported them
};

}  // namespace

struct Metrics::Families {
  template <typename Builder>
  auto& Make(Builder builder, const char* name, const char* help) {
    return builder.Name(name).Help(help).Register(registry);
  }
  Family<Counter>& MakeCounter(const char* name, const char* help) {
    return Make(prometheus::BuildCounter(), name, help);
  }
  Family<Gauge>& MakeGauge(const char* name, const char* help) {
    return Make(prometheus::BuildGauge(), name, help);
  }
  Family<Histogram>& MakeHistogram(const char* name, const char* help) {
    return Make(prometheus::BuildHistogram(), name, help);
  }
  void AddModels(const std::vector<std::string>& model_names);
  void AddSchedulerMetrics();  // of the models there are
  RankSeries& Rank(uint32_t group, uint32_t rank) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  prometheus::Registry registry;
  const absl::Time start = absl::Now();
  std::vector<std::string> names;
  std::vector<ModelMetrics> models;

  Family<Counter>& finished =
      MakeCounter("tessera_requests_total", "Finished requests by how they ended.");
  Family<Counter>& rejected = MakeCounter("tessera_admission_rejections_total",
                                          "Requests refused before any work, by reason.");
  Family<Counter>& tenant_finished =
      MakeCounter("tessera_tenant_requests_total", "Finished requests of a tenant.");
  Family<Counter>& tenant_refused = MakeCounter("tessera_tenant_refusals_total",
                                                "Requests refused by a limit of the tenant's own.");
  Family<Counter>& tenant_prompt =
      MakeCounter("tessera_tenant_prompt_tokens_total",
                  "Prompt tokens of a tenant's requests that produced output.");
  Family<Counter>& tenant_generation = MakeCounter("tessera_tenant_generation_tokens_total",
                                                   "Tokens generated and emitted for a tenant.");
  Family<Counter>& auth_failures = MakeCounter("tessera_authentication_failures_total",
                                               "Calls without a valid API key, by reason.");
  Family<Counter>& http =
      MakeCounter("tessera_http_requests_total", "HTTP answers by route and status code.");
  Family<Counter>& grpc =
      MakeCounter("tessera_grpc_requests_total", "gRPC calls by method and status code.");
  Gauge& connections = MakeGauge("tessera_http_connections", "HTTP connections open now.").Add({});
  Family<Counter>& rank_steps = MakeCounter("tessera_rank_steps_total",
                                            "Steps and heartbeat plans that a rank has finished.");
  Family<Gauge>& rank_progress = MakeGauge("tessera_rank_last_progress_timestamp_seconds",
                                           "Unix time of a rank's last finished step.");
  Family<Gauge>& rank_resident =
      MakeGauge("tessera_rank_resident_bytes", "Memory that a rank's process holds.");
  Family<Counter>& rank_device = MakeCounter("tessera_rank_device_seconds_total",
                                             "Device time of a rank by what it was used for.");
  Family<Counter>& rank_experts =
      MakeCounter("tessera_rank_expert_tokens_total",
                  "Tokens that a rank computed in its experts, once for every expert and layer.");
  Family<Gauge>& rank_up = MakeGauge("tessera_rank_up", "1 while a rank is connected and ready.");
  Gauge& uptime =
      MakeGauge("tessera_uptime_seconds", "Seconds since the coordinator started.").Add({});
  Gauge& resident =
      MakeGauge("tessera_process_resident_bytes", "Memory that the coordinator's process holds.")
          .Add({});

  absl::Mutex mutex;
  LabelBound finish_reasons ABSL_GUARDED_BY(mutex);
  LabelBound reject_reasons ABSL_GUARDED_BY(mutex);
  LabelBound routes ABSL_GUARDED_BY(mutex);
  LabelBound http_codes ABSL_GUARDED_BY(mutex);
  LabelBound methods ABSL_GUARDED_BY(mutex);
  LabelBound grpc_codes ABSL_GUARDED_BY(mutex);
  LabelBound kinds ABSL_GUARDED_BY(mutex);
  LabelBound tenant_names ABSL_GUARDED_BY(mutex){kTenantLabelsMax};
  LabelBound tenant_limits ABSL_GUARDED_BY(mutex);
  LabelBound auth_reasons ABSL_GUARDED_BY(mutex);
  std::map<std::string, TenantMetrics> tenants ABSL_GUARDED_BY(mutex);  // nodes stay in place
  std::map<std::pair<uint32_t, uint32_t>, RankSeries> ranks ABSL_GUARDED_BY(mutex);
};

void Metrics::Families::AddModels(const std::vector<std::string>& model_names) {
  auto& prompt_tokens =
      MakeCounter("tessera_prompt_tokens_total", "Prompt tokens of requests that produced output.");
  auto& generation_tokens =
      MakeCounter("tessera_generation_tokens_total", "Tokens generated and emitted.");
  auto& running = MakeGauge("tessera_requests_running", "Sequences being computed now.");
  auto& waiting = MakeGauge("tessera_requests_waiting", "Requests in the queue now.");
  auto& kv_usage = MakeGauge("tessera_kv_cache_usage_ratio",
                             "KV blocks in use, of all, in the fullest KV group (0 to 1).");
  auto& first_token = MakeHistogram("tessera_time_to_first_token_seconds",
                                    "From arrival to the first token, waiting included.");
  auto& inter_token =
      MakeHistogram("tessera_inter_token_latency_seconds", "Between two tokens of one request.");
  auto& latency =
      MakeHistogram("tessera_e2e_request_latency_seconds", "From arrival to the last token.");
  auto& queue =
      MakeHistogram("tessera_request_queue_time_seconds", "From arrival to the first step.");
  auto& prompt_length =
      MakeHistogram("tessera_request_prompt_tokens", "Prompt tokens per request.");
  auto& output_length =
      MakeHistogram("tessera_request_generation_tokens", "Generated tokens per request.");
  auto& step_time =
      MakeHistogram("tessera_step_time_seconds", "Time of a step on its slowest rank.");
  auto& step_rows = MakeHistogram("tessera_step_rows", "Sequences in a step.");
  auto& step_tokens = MakeHistogram("tessera_step_tokens", "Tokens computed in a step.");
  auto& steps = MakeCounter("tessera_steps_total", "Steps with at least one row.");
  auto& ready =
      MakeGauge("tessera_model_ready", "1 while a group of the model is ready and makes progress.");
  for (const std::string& name : model_names) {
    const prometheus::Labels labels = {{"model_name", name}};
    models.push_back(ModelMetrics{
        .prompt_tokens = &prompt_tokens.Add(labels),
        .generation_tokens = &generation_tokens.Add(labels),
        .requests_running = &running.Add(labels),
        .requests_waiting = &waiting.Add(labels),
        .kv_cache_usage = &kv_usage.Add(labels),
        .time_to_first_token = &first_token.Add(labels, FirstTokenBuckets()),
        .inter_token_latency = &inter_token.Add(labels, TokenBuckets()),
        .request_latency = &latency.Add(labels, RequestBuckets()),
        .queue_time = &queue.Add(labels, RequestBuckets()),
        .prompt_length = &prompt_length.Add(labels, CountBuckets(1'000'000)),
        .generation_length = &output_length.Add(labels, CountBuckets(1'000'000)),
        .step_time = &step_time.Add(labels, TokenBuckets()),
        .step_rows = &step_rows.Add(labels, CountBuckets(1000)),
        .step_tokens = &step_tokens.Add(labels, CountBuckets(10'000)),
        .steps = &steps.Add(labels),
        .ready = &ready.Add(labels),
    });
  }
  AddSchedulerMetrics();
}

void Metrics::Families::AddSchedulerMetrics() {
  auto& tokens_waiting =
      MakeGauge("tessera_tokens_waiting", "Tokens owed by what waits in the queue now.");
  auto& computed = MakeCounter("tessera_computed_tokens_total", "Tokens computed by ranks.");
  auto& recomputed = MakeCounter("tessera_recomputed_tokens_total",
                                 "Computed tokens that had been computed before and were lost.");
  auto& overrun = MakeCounter("tessera_overrun_tokens_total",
                              "Computed tokens past the end of their sequence.");
  auto& prefix_queries =
      MakeCounter("tessera_prefix_cache_queries_total", "Tokens looked up in the prefix cache.");
  auto& prefix_hits =
      MakeCounter("tessera_prefix_cache_hits_total", "Tokens found in the prefix cache.");
  auto& cached_prompt =
      MakeCounter("tessera_cached_prompt_tokens_total", "Prompt tokens told to clients as cached.");
  auto& preemptions =
      MakeCounter("tessera_preemptions_total", "Sequences that gave up their blocks and waited.");
  for (size_t i = 0; i < models.size(); ++i) {
    const prometheus::Labels labels = {{"model_name", names[i]}};
    ModelMetrics& model = models[i];
    model.tokens_waiting = &tokens_waiting.Add(labels);
    model.computed_tokens = &computed.Add(labels);
    model.recomputed_tokens = &recomputed.Add(labels);
    model.overrun_tokens = &overrun.Add(labels);
    model.prefix_cache_queries = &prefix_queries.Add(labels);
    model.prefix_cache_hits = &prefix_hits.Add(labels);
    model.cached_prompt_tokens = &cached_prompt.Add(labels);
    model.preemptions = &preemptions.Add(labels);
  }
}

RankSeries& Metrics::Families::Rank(uint32_t group, uint32_t rank) {
  // The overflow series has a place of its own, which no real rank can have.
  constexpr std::pair<uint32_t, uint32_t> kOther = {UINT32_MAX, UINT32_MAX};
  std::pair<uint32_t, uint32_t> key = {group, rank};
  if (!ranks.contains(key) && ranks.size() >= kRankSeriesMax) key = kOther;
  const auto found = ranks.find(key);
  if (found != ranks.end()) return found->second;
  const bool other = key == kOther;
  const prometheus::Labels labels = {{"group", other ? "other" : std::to_string(group)},
                                     {"rank", other ? "other" : std::to_string(rank)}};
  RankSeries series = {.steps = &rank_steps.Add(labels),
                       .last_progress = &rank_progress.Add(labels),
                       .resident_bytes = &rank_resident.Add(labels),
                       .up = &rank_up.Add(labels),
                       .labels = labels};
  return ranks.emplace(key, std::move(series)).first->second;
}

Metrics::Metrics(const std::vector<std::string>& model_names, const std::string& version)
    : families_(std::make_unique<Families>()) {
  families_->names = model_names;
  families_->AddModels(model_names);
  families_->MakeGauge("tessera_build_info", "Always 1; the label says which build this is.")
      .Add({{"version", version}})
      .Set(1);
}

Metrics::~Metrics() = default;

ModelMetrics& Metrics::model(size_t index) {
  TESSERA_CHECK(index < families_->models.size()) << "model " << index;
  return families_->models[index];
}

void Metrics::CountFinished(size_t model, const std::string& finish_reason) {
  TESSERA_CHECK(model < families_->names.size()) << "model " << model;
  absl::MutexLock lock(&families_->mutex);
  families_->finished
      .Add({{"model_name", families_->names[model]},
            {"finish_reason", families_->finish_reasons.Bound(finish_reason)}})
      .Increment();
}

void Metrics::CountRejected(size_t model, const std::string& reason) {
  TESSERA_CHECK(model < families_->names.size()) << "model " << model;
  absl::MutexLock lock(&families_->mutex);
  families_->rejected
      .Add({{"model_name", families_->names[model]},
            {"reason", families_->reject_reasons.Bound(reason)}})
      .Increment();
}

TenantMetrics& Metrics::tenant(const std::string& name) {
  absl::MutexLock lock(&families_->mutex);
  const std::string& label = families_->tenant_names.Bound(name);
  const auto found = families_->tenants.find(label);
  if (found != families_->tenants.end()) return found->second;
  return families_->tenants
      .emplace(label,
               TenantMetrics{
                   .prompt_tokens = &families_->tenant_prompt.Add({{"tenant", label}}),
                   .generation_tokens = &families_->tenant_generation.Add({{"tenant", label}}),
               })
      .first->second;
}

void Metrics::CountTenantFinished(const std::string& tenant, const std::string& finish_reason) {
  absl::MutexLock lock(&families_->mutex);
  families_->tenant_finished
      .Add({{"tenant", families_->tenant_names.Bound(tenant)},
            {"finish_reason", families_->finish_reasons.Bound(finish_reason)}})
      .Increment();
}

void Metrics::CountTenantRefused(const std::string& tenant, const std::string& limit) {
  absl::MutexLock lock(&families_->mutex);
  families_->tenant_refused
      .Add({{"tenant", families_->tenant_names.Bound(tenant)},
            {"limit", families_->tenant_limits.Bound(limit)}})
      .Increment();
}

void Metrics::CountAuthFailure(const std::string& reason) {
  absl::MutexLock lock(&families_->mutex);
  families_->auth_failures.Add({{"reason", families_->auth_reasons.Bound(reason)}}).Increment();
}

void Metrics::CountHttp(const std::string& route, int code) {
  absl::MutexLock lock(&families_->mutex);
  families_->http
      .Add({{"route", families_->routes.Bound(route)},
            {"code", families_->http_codes.Bound(std::to_string(code))}})
      .Increment();
}

void Metrics::CountGrpc(const std::string& method, const std::string& code) {
  absl::MutexLock lock(&families_->mutex);
  families_->grpc
      .Add({{"method", families_->methods.Bound(method)},
            {"code", families_->grpc_codes.Bound(code)}})
      .Increment();
}

prometheus::Gauge& Metrics::http_connections() { return families_->connections; }

void Metrics::ObserveRank(uint32_t group, uint32_t rank, uint64_t steps_finished,
                          double progress_unix_seconds, uint64_t resident_bytes) {
  absl::MutexLock lock(&families_->mutex);
  RankSeries& series = families_->Rank(group, rank);
  // A rank that restarted counts from zero again; the exported counter only ever grows.
  const bool restarted = steps_finished < series.steps_seen;
  series.steps->Increment(
      static_cast<double>(restarted ? steps_finished : steps_finished - series.steps_seen));
  series.steps_seen = steps_finished;
  series.last_progress->Set(progress_unix_seconds);
  series.resident_bytes->Set(static_cast<double>(resident_bytes));
}

void Metrics::AddRankDeviceSeconds(uint32_t group, uint32_t rank, const std::string& kind,
                                   double seconds) {
  if (!(seconds > 0)) return;
  absl::MutexLock lock(&families_->mutex);
  prometheus::Labels labels = families_->Rank(group, rank).labels;
  labels["kind"] = families_->kinds.Bound(kind);
  families_->rank_device.Add(labels).Increment(seconds);
}

void Metrics::AddRankExpertTokens(uint32_t group, uint32_t rank, uint64_t tokens) {
  if (tokens == 0) return;
  absl::MutexLock lock(&families_->mutex);
  const prometheus::Labels labels = families_->Rank(group, rank).labels;
  families_->rank_experts.Add(labels).Increment(static_cast<double>(tokens));
}

void Metrics::SetRankUp(uint32_t group, uint32_t rank, bool up) {
  absl::MutexLock lock(&families_->mutex);
  families_->Rank(group, rank).up->Set(up ? 1 : 0);
}

std::string Metrics::Expose() const {
  families_->uptime.Set(absl::ToDoubleSeconds(absl::Now() - families_->start));
  families_->resident.Set(ResidentBytes());
  return prometheus::TextSerializer().Serialize(families_->registry.Collect());
}

}  // namespace tessera
