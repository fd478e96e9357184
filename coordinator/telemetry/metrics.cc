// What is counted where. The hot path increments what a pointer points to; families whose labels
// come at run time look their series up under a mutex.

#include "coordinator/telemetry/metrics.h"

#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "coordinator/telemetry/make_series.h"
#include "coordinator/telemetry/vllm_names.h"

namespace tessera {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;

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

// Of one target: the requests that did not meet it, and those that did.
struct SloCounters {
  std::array<Counter*, 2> met;
  void Count(bool is_met) { met[is_met ? 1 : 0]->Increment(); }
};

struct ModelSlo {
  SloCounters first_token;
  SloCounters token;
  SloCounters all;
};

struct RankSeries {
  RankMetrics metrics;
  std::string group;
  std::string rank;
  uint64_t steps_seen = 0;                                      // as the rank last reported them
  std::map<std::string, Counter*, std::less<>> device_seconds;  // by kind
};

}  // namespace

struct Metrics::Families {
  explicit Families(MetricsOptions given)
      : options(std::move(given)),
        labelled(MakeLabelled(registry, bounds)),
        process(MakeSeries<ProcessMetrics>(registry, {})) {}

  void AddModel(const std::string& name);
  const std::string& ModelName(size_t model) const {
    TESSERA_CHECK(model < names.size()) << "model " << model;
    return names[model];
  }
  RankSeries& Rank(uint32_t group, uint32_t rank) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  const MetricsOptions options;
  const absl::Time start = absl::Now();
  prometheus::Registry registry;
  LabelBounds bounds;
  LabelledMetrics labelled;
  ProcessMetrics process;
  std::vector<std::string> names;  // of models
  std::vector<ModelMetrics> models;
  std::vector<ModelSlo> slo;  // of models

  absl::Mutex mutex;
  std::map<std::string, TenantMetrics> tenants ABSL_GUARDED_BY(mutex);  // nodes stay in place
  std::map<std::pair<uint32_t, uint32_t>, RankSeries> ranks ABSL_GUARDED_BY(mutex);
  std::map<size_t, std::string> currencies ABSL_GUARDED_BY(mutex);  // by model, of its price
};

// What is sure to come is there from the start with 0: a rate cannot see a series' first value.
void Metrics::Families::AddModel(const std::string& name) {
  names.push_back(name);
  models.push_back(MakeSeries<ModelMetrics>(registry, {{"model_name", name}}));
  const auto counters = [&](const char* target) {
    return SloCounters{
        {&labelled.slo.At({name, target, "false"}), &labelled.slo.At({name, target, "true"})}};
  };
  slo.push_back({counters("ttft"), counters("tpot"), counters("all")});
  for (const char* reason : {"stop", "length", "cancelled", "deadline", "rejected", "error"}) {
    labelled.finished.At({name, reason});
  }
  for (const char* reason :
       {"no_ready_group", "draining", "invalid", "queue_requests", "queue_tokens", "queue_bytes"}) {
    labelled.rejected.At({name, reason});
  }
}

RankSeries& Metrics::Families::Rank(uint32_t group, uint32_t rank) {
  // The overflow series has a place of its own, which no real rank can have.
  constexpr std::pair<uint32_t, uint32_t> kOther = {UINT32_MAX, UINT32_MAX};
  std::pair<uint32_t, uint32_t> key = {group, rank};
  if (!ranks.contains(key) && ranks.size() >= kRankSeriesMax) key = kOther;
  const auto found = ranks.find(key);
  if (found != ranks.end()) return found->second;
  RankSeries series;
  series.group = key == kOther ? "other" : std::to_string(group);
  series.rank = key == kOther ? "other" : std::to_string(rank);
  series.metrics =
      MakeSeries<RankMetrics>(registry, {{"group", series.group}, {"rank", series.rank}});
  return ranks.emplace(key, std::move(series)).first->second;
}

Metrics::Metrics(const std::vector<std::string>& model_names, MetricsOptions options)
    : families_(std::make_unique<Families>(std::move(options))) {
  for (const std::string& name : model_names) families_->AddModel(name);
  LabelledMetrics& labelled = families_->labelled;
  labelled.build.At({families_->options.version}).Set(1);
  labelled.slo_target.At({"ttft"}).Set(families_->options.slo.first_token_seconds);
  labelled.slo_target.At({"tpot"}).Set(families_->options.slo.token_seconds);
}

Metrics::~Metrics() = default;

ModelMetrics& Metrics::model(size_t index) {
  TESSERA_CHECK(index < families_->models.size()) << "model " << index;
  return families_->models[index];
}

TenantMetrics& Metrics::tenant(const std::string& name) {
  const std::string label = families_->bounds.Bound("tenant", name);
  absl::MutexLock lock(&families_->mutex);
  const auto found = families_->tenants.find(label);
  if (found != families_->tenants.end()) return found->second;
  const auto series = MakeSeries<TenantMetrics>(families_->registry, {{"tenant", label}});
  return families_->tenants.emplace(label, series).first->second;
}

void Metrics::CountFinished(size_t model, const std::string& finish_reason) {
  families_->labelled.finished.At({families_->ModelName(model), finish_reason}).Increment();
}

void Metrics::CountTenantFinished(const std::string& tenant, const std::string& finish_reason) {
  families_->labelled.tenant_finished.At({tenant, finish_reason}).Increment();
}

void Metrics::ObserveRequest(size_t model_index, const RequestFacts& facts) {
  ModelMetrics& metrics = model(model_index);
  metrics.request_latency->Observe(facts.ended);
  metrics.prompt_length->Observe(facts.prompt_tokens);
  metrics.computed_prompt_length->Observe(facts.prompt_tokens - facts.cached_tokens);
  metrics.cached_prompt_tokens->Increment(facts.cached_tokens);
  metrics.generation_length->Observe(facts.output_tokens);
  metrics.longest_generation_length->Observe(facts.longest_output);
  metrics.request_choices->Observe(facts.num_choices);
  metrics.request_max_tokens->Observe(facts.max_tokens);
  const bool has_token = facts.first_token >= 0;
  if (has_token && facts.first_scheduled >= 0) {
    metrics.prefill_time->Observe(facts.first_token - facts.first_scheduled);
    metrics.decode_time->Observe(facts.last_token - facts.first_token);
    metrics.inference_time->Observe(facts.last_token - facts.first_scheduled);
  }
  if (facts.time_per_token >= 0) metrics.time_per_token->Observe(facts.time_per_token);

  ModelSlo& slo = families_->slo[model_index];
  const auto within = [](double seconds, double target) {
    return target <= 0 || seconds <= target;
  };
  const bool is_cancelled = facts.finish_reason == "cancelled";
  const bool is_complete = facts.finish_reason == "stop" || facts.finish_reason == "length";
  const bool begins_well =
      has_token && within(facts.first_token, families_->options.slo.first_token_seconds);
  const bool goes_well =  // with a single token there is nothing to go wrong
      facts.time_per_token < 0 ||
      within(facts.time_per_token, families_->options.slo.token_seconds);
  if (has_token || !is_cancelled) slo.first_token.Count(begins_well);
  if (facts.time_per_token >= 0) slo.token.Count(goes_well);
  if (!is_cancelled) slo.all.Count(is_complete && begins_well && goes_well);
}

void Metrics::CountRejected(size_t model, const std::string& reason) {
  families_->labelled.rejected.At({families_->ModelName(model), reason}).Increment();
  if (reason == "invalid") return;  // not ours to serve
  families_->slo[model].first_token.Count(false);
  families_->slo[model].all.Count(false);
}

void Metrics::CountTenantRefused(const std::string& tenant, const std::string& limit) {
  families_->labelled.tenant_refused.At({tenant, limit}).Increment();
}

void Metrics::CountAuthFailure(const std::string& reason) {
  families_->labelled.auth_failures.At({reason}).Increment();
}

void Metrics::CountHttp(const std::string& route, int code) {
  families_->labelled.http.At({route, std::to_string(code)}).Increment();
}

void Metrics::CountGrpc(const std::string& method, const std::string& code) {
  families_->labelled.grpc.At({method, code}).Increment();
}

Gauge& Metrics::http_connections() { return *families_->process.http_connections; }

void Metrics::AddGpuSeconds(size_t model, std::string_view tenant, std::string_view kind,
                            double seconds) {
  TESSERA_CHECK(std::find(std::begin(kGpuSecondsKinds), std::end(kGpuSecondsKinds), kind) !=
                std::end(kGpuSecondsKinds))
      << "GPU-seconds of kind " << std::string(kind);
  if (!(seconds >= 0)) return;  // 0: from now on it is there
  families_->labelled.gpu_seconds.At({families_->ModelName(model), tenant, kind})
      .Increment(seconds);
}

void Metrics::SetGpuHourlyPrice(size_t model, const std::string& currency, double price) {
  Labelled<Gauge>& family = families_->labelled.gpu_price;
  const std::string& name = families_->ModelName(model);
  absl::MutexLock lock(&families_->mutex);
  std::string& shown = families_->currencies[model];
  if (!shown.empty() && shown != currency) family.Remove({name, shown});
  shown = currency;
  family.At({name, currency}).Set(price);
}

void Metrics::ObserveStepTime(size_t model_index, double predicted_seconds,
                              double measured_seconds) {
  model(model_index)
      .step_time_error->Observe(std::abs(predicted_seconds - measured_seconds) / measured_seconds);
}

KvBlockGauges Metrics::kv_blocks(size_t model, size_t kv_group) {
  const auto gauge = [&](const char* state) {
    return &families_->labelled.kv_blocks.At(
        {families_->ModelName(model), std::to_string(kv_group), state});
  };
  return {.held = gauge("held"), .cached = gauge("cached"), .empty = gauge("empty")};
}

Histogram& Metrics::rank_skew(uint32_t group) {
  return families_->labelled.rank_skew.At({std::to_string(group)});
}

void Metrics::CountGroupLoss(size_t model, uint32_t group) {
  families_->labelled.group_losses.At({families_->ModelName(model), std::to_string(group)})
      .Increment();
}

void Metrics::SetGroupLoadTime(size_t model, uint32_t group, double seconds) {
  // From now on it can be lost: the first time must be seen as a change.
  families_->labelled.group_losses.At({families_->ModelName(model), std::to_string(group)});
  families_->labelled.group_load_time.At({families_->ModelName(model), std::to_string(group)})
      .Set(seconds);
}

void Metrics::ObserveRank(uint32_t group, uint32_t rank, uint64_t steps_finished,
                          double progress_unix_seconds, uint64_t resident_bytes) {
  absl::MutexLock lock(&families_->mutex);
  RankSeries& series = families_->Rank(group, rank);
  // A rank that restarted counts from zero again; the exported counter only ever grows.
  const bool restarted = steps_finished < series.steps_seen;
  series.metrics.steps->Increment(
      static_cast<double>(restarted ? steps_finished : steps_finished - series.steps_seen));
  series.steps_seen = steps_finished;
  series.metrics.last_progress->Set(progress_unix_seconds);
  series.metrics.resident_bytes->Set(static_cast<double>(resident_bytes));
}

void Metrics::CountSlowestRank(uint32_t group, uint32_t rank) {
  absl::MutexLock lock(&families_->mutex);
  families_->Rank(group, rank).metrics.slowest_steps->Increment();
}

void Metrics::AddRankDeviceSeconds(uint32_t group, uint32_t rank, const std::string& kind,
                                   double seconds) {
  if (!(seconds > 0)) return;
  absl::MutexLock lock(&families_->mutex);
  RankSeries& series = families_->Rank(group, rank);
  Counter*& counter = series.device_seconds[kind];
  if (counter == nullptr) {
    counter = &families_->labelled.rank_device.At({series.group, series.rank, kind});
  }
  counter->Increment(seconds);
}

void Metrics::AddRankExpertTokens(uint32_t group, uint32_t rank, uint64_t tokens) {
  if (tokens == 0) return;
  absl::MutexLock lock(&families_->mutex);
  const RankSeries& series = families_->Rank(group, rank);
  families_->labelled.rank_experts.At({series.group, series.rank})
      .Increment(static_cast<double>(tokens));
}

void Metrics::AddGpuEnergy(uint32_t group, uint32_t rank, double joules) {
  if (!(joules > 0)) return;
  absl::MutexLock lock(&families_->mutex);
  const RankSeries& series = families_->Rank(group, rank);
  families_->labelled.gpu_energy.At({series.group, series.rank}).Increment(joules);
}

void Metrics::SetRankUp(uint32_t group, uint32_t rank, bool up) {
  absl::MutexLock lock(&families_->mutex);
  families_->Rank(group, rank).metrics.up->Set(up ? 1 : 0);
}

std::string Metrics::Expose() const {
  families_->process.uptime->Set(absl::ToDoubleSeconds(absl::Now() - families_->start));
  families_->process.resident_bytes->Set(ResidentBytes());
  std::vector<prometheus::MetricFamily> families = families_->registry.Collect();
  if (families_->options.vllm_names) AppendVllmNames(families);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace tessera
