// Every metric the coordinator exports. What each is stands in metric_table.cc (printed as
// METRICS.md), the members that rooms increment in series.h. Made once in main and passed by
// reference; any thread.

#ifndef TESSERA_COORDINATOR_TELEMETRY_METRICS_H_
#define TESSERA_COORDINATOR_TELEMETRY_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/version.h"
#include "coordinator/telemetry/series.h"

namespace tessera {

// What a request has to meet to be good; 0: no target, everything meets it.
struct SloTargets {
  double first_token_seconds = 2;
  double token_seconds = 0.1;  // mean time between the tokens of a request
};

struct MetricsOptions {
  SloTargets slo = {};
  bool vllm_names = false;  // show them under vLLM's names too
  std::string version = kVersion;
};

// A request that was not rejected, at its end, as its client saw it. Times are seconds after its
// arrival, negative if it never came to that.
struct RequestFacts {
  std::string_view finish_reason;
  double first_scheduled = -1;
  double first_token = -1;
  double last_token = -1;
  double ended = 0;
  double time_per_token = -1;  // mean, of its slowest choice; known from two tokens on
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;   // of the prompt
  uint32_t output_tokens = 0;   // of all choices
  uint32_t longest_output = 0;  // of one choice
  uint32_t num_choices = 1;
  uint32_t max_tokens = 0;  // of one choice
};

// KV blocks of one KvGroup of a model.
struct KvBlockGauges {
  prometheus::Gauge* held;
  prometheus::Gauge* cached;
  prometheus::Gauge* empty;
};

// What tessera_gpu_seconds_total may be split into.
inline constexpr std::string_view kGpuSecondsKinds[] = {
    "prefill",  "decode", "recompute",   "overrun",   "padding",  "capture",
    "recovery", "load",   "idle_bubble", "idle_host", "idle_none"};

class Metrics {
 public:
  // One entry per model, in the coordinator's order.
  explicit Metrics(const std::vector<std::string>& model_names, MetricsOptions options = {});
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  ModelMetrics& model(size_t index);
  // The same object for a tenant's whole life, so that it need not be looked up per token.
  TenantMetrics& tenant(const std::string& name);

  // Every request ends in CountFinished and CountTenantFinished once; what was not rejected also in
  // ObserveRequest, what was also in CountRejected.
  void CountFinished(size_t model, const std::string& finish_reason);
  void CountTenantFinished(const std::string& tenant, const std::string& finish_reason);
  void ObserveRequest(size_t model, const RequestFacts& facts);
  void CountRejected(size_t model, const std::string& reason);
  void CountTenantRefused(const std::string& tenant, const std::string& limit);

  void CountAuthFailure(const std::string& reason);
  void CountHttp(const std::string& route, int code);
  void CountGrpc(const std::string& method, const std::string& code);
  prometheus::Gauge& http_connections();

  // Negative and no seconds count nothing. `tenant` is empty where nobody asked for them, `kind`
  // one of kGpuSecondsKinds.
  void AddGpuSeconds(size_t model, std::string_view tenant, std::string_view kind, double seconds);
  // What a device of the model costs per hour from now on.
  void SetGpuHourlyPrice(size_t model, const std::string& currency, double price);
  void AddGpuEnergy(uint32_t group, uint32_t rank, double joules);
  // A step's time as it was foretold and as it was; both above 0.
  void ObserveStepTime(size_t model, double predicted_seconds, double measured_seconds);

  KvBlockGauges kv_blocks(size_t model, size_t kv_group);
  prometheus::Histogram& rank_skew(uint32_t group);
  void CountGroupLoss(size_t model, uint32_t group);
  void SetGroupLoadTime(size_t model, uint32_t group, double seconds);
  void ObserveRank(uint32_t group, uint32_t rank, uint64_t steps_finished,
                   double progress_unix_seconds, uint64_t resident_bytes);
  void CountSlowestRank(uint32_t group, uint32_t rank);
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
