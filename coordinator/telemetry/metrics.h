// Every metric the coordinator exports, one member each; the names, types, labels and units are
// listed in coordinator/telemetry/README.md. Made once in main and passed by reference; members are
// thread-safe.

#ifndef TESSERA_COORDINATOR_TELEMETRY_METRICS_H_
#define TESSERA_COORDINATOR_TELEMETRY_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>
#include <vector>

namespace tessera {

// Metrics of one served model (label `model_name`).
struct ModelMetrics {
  prometheus::Counter* prompt_tokens;
  prometheus::Counter* generation_tokens;
  prometheus::Gauge* requests_running;
  prometheus::Gauge* requests_waiting;
  prometheus::Gauge* kv_cache_usage;           // 0..1, fullest KvGroup
  prometheus::Histogram* time_to_first_token;  // seconds, arrival to first token
  prometheus::Histogram* inter_token_latency;  // seconds
  prometheus::Histogram* request_latency;      // seconds, end to end
  prometheus::Histogram* queue_time;           // seconds, arrival to first scheduled
  prometheus::Histogram* prompt_length;        // tokens
  prometheus::Histogram* generation_length;    // tokens
  prometheus::Histogram* step_time;            // seconds on the slowest rank
  prometheus::Histogram* step_rows;            // rows per step
  prometheus::Histogram* step_tokens;          // tokens per step
  prometheus::Counter* steps;
  prometheus::Gauge* ready;  // 1: a group of the model is ready and makes progress
  prometheus::Gauge* tokens_waiting = nullptr;          // owed by what waits
  prometheus::Counter* computed_tokens = nullptr;       // by ranks
  prometheus::Counter* recomputed_tokens = nullptr;     // of computed_tokens
  prometheus::Counter* overrun_tokens = nullptr;        // of computed_tokens
  prometheus::Counter* prefix_cache_queries = nullptr;  // tokens
  prometheus::Counter* prefix_cache_hits = nullptr;     // tokens
  prometheus::Counter* cached_prompt_tokens = nullptr;  // as told to clients
  prometheus::Counter* preemptions = nullptr;
};

// Metrics of one tenant (label `tenant`) that are counted with every token.
struct TenantMetrics {
  prometheus::Counter* prompt_tokens;
  prometheus::Counter* generation_tokens;
};

// Label values of one label; what comes later is counted under "other".
inline constexpr size_t kLabelValuesMax = 64;
// Ranks, over all groups; later ones are counted under group "other", rank "other".
inline constexpr size_t kRankSeriesMax = 1024;

// Tenants with series of their own; later ones are counted under "other".
inline constexpr size_t kTenantLabelsMax = 256;

class Metrics {
 public:
  // One entry per model, in the coordinator's order.
  // `version` is the build's, for tessera_build_info.
  explicit Metrics(const std::vector<std::string>& model_names,
                   const std::string& version = "0.1.0");
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  ModelMetrics& model(size_t index);
  // tessera_requests_total{model_name, finish_reason}
  void CountFinished(size_t model, const std::string& finish_reason);
  // tessera_admission_rejections_total{model_name, reason}
  void CountRejected(size_t model, const std::string& reason);
  // The same object for a tenant's whole life, so that it need not be looked up per token.
  TenantMetrics& tenant(const std::string& name);
  // tessera_tenant_requests_total{tenant, finish_reason}
  void CountTenantFinished(const std::string& tenant, const std::string& finish_reason);
  // tessera_tenant_refusals_total{tenant, limit}: a limit of the tenant's own was met
  void CountTenantRefused(const std::string& tenant, const std::string& limit);
  // tessera_authentication_failures_total{reason}
  void CountAuthFailure(const std::string& reason);
  // tessera_http_requests_total{route, code}
  void CountHttp(const std::string& route, int code);
  // tessera_grpc_requests_total{method, code}
  void CountGrpc(const std::string& method, const std::string& code);
  // tessera_http_connections
  prometheus::Gauge& http_connections();
  // Per rank: tessera_rank_steps_total, tessera_rank_last_progress_timestamp_seconds,
  // tessera_rank_resident_bytes, tessera_rank_device_seconds_total{kind}, tessera_rank_up; of
  // models with experts tessera_rank_expert_tokens_total.
  void ObserveRank(uint32_t group, uint32_t rank, uint64_t steps_finished,
                   double progress_unix_seconds, uint64_t resident_bytes);
  void AddRankDeviceSeconds(uint32_t group, uint32_t rank, const std::string& kind, double seconds);
  void AddRankExpertTokens(uint32_t group, uint32_t rank, uint64_t tokens);
  void SetRankUp(uint32_t group, uint32_t rank, bool up);

  // The text exposition format (version 0.0.4). Reads uptime and resident bytes as it goes.
  std::string Expose() const;

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TELEMETRY_METRICS_H_
