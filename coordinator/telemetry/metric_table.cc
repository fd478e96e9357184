// The table. Its order is that of METRICS.md, which a test compares; print it anew with
// `tessera-coordinator --metrics-reference`.

#include "coordinator/telemetry/metric_table.h"

#include "absl/strings/str_split.h"

namespace tessera {
namespace {

using M = ModelMetrics;
using R = RankMetrics;
using P = ProcessMetrics;
using L = LabelledMetrics;
using B = BucketSet;

constexpr Stability kExperimental = Stability::kExperimental;

// Headings of the reference.
constexpr char kRequests[] = "Requests, per model";
constexpr char kSlo[] = "Goodput, per model";
constexpr char kSteps[] = "Steps and KV cache, per model";
constexpr char kTenants[] = "Tenants";
constexpr char kLedger[] = "GPU-seconds and what they cost";
constexpr char kGroups[] = "Groups and ranks";
constexpr char kDoors[] = "Front doors and process";

constexpr char kModel[] = "model_name";
constexpr char kRank[] = "group, rank";

constexpr MetricRow kTable[] = {
    {&L::finished, kRequests, "tessera_requests_total", "model_name, finish_reason", "requests",
     "Finished, by how they ended: stop, length, cancelled, deadline, rejected, error."},
    {&L::rejected, kRequests, "tessera_admission_rejections_total", "model_name, reason",
     "requests",
     "Refused before any work: no_ready_group, draining, invalid, or the bound of the queue that "
     "was met: queue_requests, queue_tokens, queue_bytes."},
    {&M::requests_running, kRequests, "tessera_requests_running", kModel, "sequences",
     "Being computed now."},
    {&M::requests_waiting, kRequests, "tessera_requests_waiting", kModel, "requests",
     "Queued now, preempted sequences included."},
    {&M::tokens_waiting, kRequests, "tessera_tokens_waiting", kModel, "tokens",
     "Owed by what waits now, preempted sequences included."},
    {&M::oldest_waiting, kRequests, "tessera_oldest_waiting_seconds", kModel, "seconds",
     "For how long the oldest request of which nothing is computed yet has waited; 0: none waits.",
     B::kNone, kExperimental},
    {&M::prompt_tokens, kRequests, "tessera_prompt_tokens_total", kModel, "tokens",
     "Of prompts that were taken into steps; counted with a request's first token."},
    {&M::cached_prompt_tokens, kRequests, "tessera_cached_prompt_tokens_total", kModel, "tokens",
     "Of prompts, told to clients as cached_tokens; counted when a request ends."},
    {&M::generation_tokens, kRequests, "tessera_generation_tokens_total", kModel, "tokens",
     "Emitted, of all choices."},
    {&M::time_to_first_token, kRequests, "tessera_time_to_first_token_seconds", kModel, "seconds",
     "Arrival to first token, waiting included.", B::kFirstToken},
    {&M::inter_token_latency, kRequests, "tessera_inter_token_latency_seconds", kModel, "seconds",
     "Between two tokens of one choice.", B::kToken},
    {&M::time_per_token, kRequests, "tessera_request_time_per_output_token_seconds", kModel,
     "seconds",
     "Mean time between the tokens of a request, on its slowest choice; requests with two tokens "
     "or more.",
     B::kToken, kExperimental},
    {&M::request_latency, kRequests, "tessera_e2e_request_latency_seconds", kModel, "seconds",
     "Arrival to end, of all requests but rejected ones.", B::kRequest},
    {&M::queue_time, kRequests, "tessera_request_queue_time_seconds", kModel, "seconds",
     "Arrival to first step.", B::kRequest},
    {&M::prefill_time, kRequests, "tessera_request_prefill_time_seconds", kModel, "seconds",
     "First step to first token.", B::kRequest, kExperimental},
    {&M::decode_time, kRequests, "tessera_request_decode_time_seconds", kModel, "seconds",
     "First token to last token.", B::kRequest, kExperimental},
    {&M::inference_time, kRequests, "tessera_request_inference_time_seconds", kModel, "seconds",
     "First step to last token.", B::kRequest, kExperimental},
    {&M::prompt_length, kRequests, "tessera_request_prompt_tokens", kModel, "tokens",
     "Of a request's prompt.", B::kLengths},
    {&M::computed_prompt_length, kRequests, "tessera_request_computed_prompt_tokens", kModel,
     "tokens", "Of a request's prompt, without what the prefix cache had.", B::kLengths,
     kExperimental},
    {&M::generation_length, kRequests, "tessera_request_generation_tokens", kModel, "tokens",
     "Of a request's answer, all choices together.", B::kLengths},
    {&M::longest_generation_length, kRequests, "tessera_request_longest_generation_tokens", kModel,
     "tokens", "Of a request's longest choice.", B::kLengths, kExperimental},
    {&M::request_choices, kRequests, "tessera_request_choices", kModel, "choices",
     "That a request asked for (n).", B::kChoices, kExperimental},
    {&M::request_max_tokens, kRequests, "tessera_request_max_tokens", kModel, "tokens",
     "That a request allowed for one choice (max_tokens).", B::kLengths, kExperimental},
    {&M::ready, kRequests, "tessera_model_ready", kModel, "0 or 1",
     "A group is ready and makes progress, as /readyz says."},

    {&L::slo, kSlo, "tessera_requests_slo_total", "model_name, slo, met", "requests",
     "Ended, by whether they met the target: slo is ttft, tpot or all, met is true or false. "
     "All: answered to the end within both targets; requests that failed or were refused for want "
     "of room did not, those that their client cancelled or that were invalid are not counted.",
     B::kNone, kExperimental},
    {&L::slo_target, kSlo, "tessera_slo_target_seconds", "slo", "seconds",
     "The targets (--slo-ttft-ms, --slo-tpot-ms); 0: none, every request meets it.", B::kNone,
     kExperimental},

    {&M::steps, kSteps, "tessera_steps_total", kModel, "steps", "With at least one row."},
    {&M::step_time, kSteps, "tessera_step_time_seconds", kModel, "seconds",
     "Of a step on its slowest rank.", B::kToken},
    {&M::step_time_error, kSteps, "tessera_step_time_error_ratio", kModel, "ratio",
     "Difference of a step's predicted and measured time, over the measured one.", B::kError,
     kExperimental},
    {&M::step_rows, kSteps, "tessera_step_rows", kModel, "sequences", "In a step.", B::kRows},
    {&M::step_tokens, kSteps, "tessera_step_tokens", kModel, "tokens", "Computed in a step.",
     B::kPowers},
    {&M::computed_tokens, kSteps, "tessera_computed_tokens_total", kModel, "tokens",
     "Computed by rows that were answered."},
    {&M::recomputed_tokens, kSteps, "tessera_recomputed_tokens_total", kModel, "tokens",
     "Of the computed ones: computed before, lost by preemption or with a group."},
    {&M::overrun_tokens, kSteps, "tessera_overrun_tokens_total", kModel, "tokens",
     "Of the computed ones: past a sequence's end; nobody sees them."},
    {&M::padded_tokens, kSteps, "tessera_padded_tokens_total", kModel, "tokens",
     "Besides the computed ones: computed for no sequence, to fill a step up to a fixed size; 0 "
     "where steps have their own size.",
     B::kNone, kExperimental},
    {&M::preemptions, kSteps, "tessera_preemptions_total", kModel, "sequences",
     "Gave up their blocks and wait again."},
    {&M::sequences_max, kSteps, "tessera_sequences_max", kModel, "sequences",
     "That a group computes at once (--rows-max).", B::kNone, kExperimental},
    {&M::kv_cache_usage, kSteps, "tessera_kv_cache_usage_ratio", kModel, "0 to 1",
     "KV blocks held by sequences, of all, in the fullest KV group."},
    {&L::kv_blocks, kSteps, "tessera_kv_cache_blocks", "model_name, kv_group, state", "blocks",
     "Of the ready groups: held by sequences, cached (nobody holds them, a later prompt may hit "
     "them), empty.",
     B::kNone, kExperimental},
    {&M::kv_block_tokens, kSteps, "tessera_kv_cache_block_tokens", kModel, "tokens",
     "That one KV block holds.", B::kNone, kExperimental},
    {&M::prefix_cache_queries, kSteps, "tessera_prefix_cache_queries_total", kModel, "tokens",
     "Looked up in the prefix cache at admission."},
    {&M::prefix_cache_hits, kSteps, "tessera_prefix_cache_hits_total", kModel, "tokens",
     "Of these: found, not computed."},

    {&L::tenant_finished, kTenants, "tessera_tenant_requests_total", "tenant, finish_reason",
     "requests", "Finished, as tessera_requests_total; over all models."},
    {&TenantMetrics::prompt_tokens, kTenants, "tessera_tenant_prompt_tokens_total", "tenant",
     "tokens", "Of prompts that were taken into steps."},
    {&TenantMetrics::generation_tokens, kTenants, "tessera_tenant_generation_tokens_total",
     "tenant", "tokens", "Emitted."},
    {&L::tenant_refused, kTenants, "tessera_tenant_refusals_total", "tenant, limit", "requests",
     "Refused by a limit of the tenant's own: requests_in_flight, tokens_per_minute."},
    {&L::auth_failures, kTenants, "tessera_authentication_failures_total", "reason", "calls",
     "Without a valid API key: missing, unknown or expired."},

    {&L::gpu_seconds, kLedger, "tessera_gpu_seconds_total", "model_name, tenant, kind", "seconds",
     "Device time by what it was for: prefill, decode, recompute, overrun, padding, capture, "
     "recovery, load, idle_bubble, idle_host, idle_none. All kinds and tenants together are "
     "tessera_gpu_wall_seconds_total; the tenant is empty where none asked for it. CPU ranks count "
     "as devices.",
     B::kNone, kExperimental},
    {&M::gpu_wall_seconds, kLedger, "tessera_gpu_wall_seconds_total", kModel, "seconds",
     "Time since its group was assigned, times its devices.", B::kNone, kExperimental},
    {&L::gpu_price, kLedger, "tessera_gpu_hourly_price", "model_name, currency", "money",
     "What one device of the model costs per hour now, by the price book; one currency at a time.",
     B::kNone, kExperimental},
    {&L::gpu_energy, kLedger, "tessera_gpu_energy_joules_total", kRank, "joules",
     "Used by the rank's device. No rank reports it yet.", B::kNone, kExperimental},

    {&R::up, kGroups, "tessera_rank_up", kRank, "0 or 1", "Connected and ready."},
    {&R::steps, kGroups, "tessera_rank_steps_total", kRank, "steps",
     "Finished, heartbeat plans included."},
    {&R::slowest_steps, kGroups, "tessera_rank_slowest_steps_total", kRank, "steps",
     "In which the rank needed the most time of its own; groups of several ranks.", B::kNone,
     kExperimental},
    {&R::last_progress, kGroups, "tessera_rank_last_progress_timestamp_seconds", kRank,
     "Unix seconds", "Of the last finished step."},
    {&R::resident_bytes, kGroups, "tessera_rank_resident_bytes", kRank, "bytes",
     "Of the rank's process."},
    {&L::rank_device, kGroups, "tessera_rank_device_seconds_total", "group, rank, kind", "seconds",
     "What the device's time went to: compute, collective, sample, overhead, idle; they do not "
     "overlap."},
    {&L::rank_experts, kGroups, "tessera_rank_expert_tokens_total", kRank, "tokens",
     "Computed by the rank's experts, once for every expert and layer; models with experts only. "
     "A rank far above the others slows its group."},
    {&L::rank_skew, kGroups, "tessera_step_rank_skew_ratio", "group", "ratio",
     "Time of its own of a step's slowest rank, over the median rank's. Time in collectives is "
     "left out: there the others wait for the slowest.",
     B::kSkew, kExperimental},
    {&L::group_losses, kGroups, "tessera_group_losses_total", "model_name, group", "losses",
     "A ready group lost a rank and started a new epoch.", B::kNone, kExperimental},
    {&L::group_load_time, kGroups, "tessera_group_load_seconds", "model_name, group", "seconds",
     "Assignment to ready, of the last start.", B::kNone, kExperimental},

    {&L::http, kDoors, "tessera_http_requests_total", "route, code", "answers",
     "The route is the row of the route table, \"unknown\" for none; code 499 is a client that "
     "went away."},
    {&L::grpc, kDoors, "tessera_grpc_requests_total", "method, code", "calls",
     "The code as gRPC spells it."},
    {&P::http_connections, kDoors, "tessera_http_connections", "", "connections", "Open now."},
    {&L::build, kDoors, "tessera_build_info", "version", "1", "Which build this is."},
    {&P::uptime, kDoors, "tessera_uptime_seconds", "", "seconds", "Since the coordinator started."},
    {&P::resident_bytes, kDoors, "tessera_process_resident_bytes", "", "bytes",
     "Of the coordinator's process."},
};

using Buckets = prometheus::Histogram::BucketBoundaries;

Buckets OneTwoFive(double limit) {
  Buckets buckets;
  for (double decade = 1; decade <= limit; decade *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      if (decade * step <= limit) buckets.push_back(decade * step);
    }
  }
  return buckets;
}

Buckets Powers(double limit) {
  Buckets buckets;
  for (double bound = 1; bound <= limit; bound *= 2) buckets.push_back(bound);
  return buckets;
}

struct TypeName {
  template <typename Owner>
  const char* operator()(prometheus::Counter* Owner::*) const {
    return "counter";
  }
  template <typename Owner>
  const char* operator()(prometheus::Gauge* Owner::*) const {
    return "gauge";
  }
  template <typename Owner>
  const char* operator()(prometheus::Histogram* Owner::*) const {
    return "histogram";
  }
  const char* operator()(Labelled<prometheus::Counter> L::*) const { return "counter"; }
  const char* operator()(Labelled<prometheus::Gauge> L::*) const { return "gauge"; }
  const char* operator()(Labelled<prometheus::Histogram> L::*) const { return "histogram"; }
};

}  // namespace

absl::Span<const MetricRow> MetricTable() { return kTable; }

// Those of requests and tokens contain the peers' (vllm_names.cc), so that quantiles compare.
Buckets BucketsOf(BucketSet set) {
  switch (set) {
    case BucketSet::kNone:
      return {};
    case BucketSet::kFirstToken:
      return {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
              1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
    case BucketSet::kToken:
      return {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
              0.4,    0.5,   0.75,   1,     2.5,  5,     7.5,  10,    20,  40,   80};
    case BucketSet::kRequest:
      return {0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1,   1.5, 2,   2.5,  5,   10,
              15,    20,   30,   40,  50,  60,  120, 240, 480, 960, 1920, 7680};
    case BucketSet::kLengths:
      return OneTwoFive(1e6);
    case BucketSet::kRows:
      return OneTwoFive(1000);
    case BucketSet::kPowers:
      return Powers(65536);
    case BucketSet::kChoices:
      return {1, 2, 5, 10, 20, 50, 100};
    case BucketSet::kSkew:
      return {1, 1.02, 1.05, 1.1, 1.2, 1.35, 1.5, 2, 3, 5, 10};
    case BucketSet::kError:
      return {0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5};
  }
  return {};
}

std::vector<std::string> LabelsOf(const MetricRow& row) {
  return absl::StrSplit(row.labels, ", ", absl::SkipEmpty());
}

const char* TypeOf(const MetricRow& row) { return std::visit(TypeName{}, row.member); }

}  // namespace tessera
