// The exported metrics as members: what the rooms increment. One member here and its row in
// metric_table.cc are a metric. Pointers are resolved when the series is made and stay valid as
// long as Metrics does; what they point to is thread-safe.

#ifndef TESSERA_COORDINATOR_TELEMETRY_SERIES_H_
#define TESSERA_COORDINATOR_TELEMETRY_SERIES_H_

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include "coordinator/telemetry/labelled.h"

namespace tessera {

// Of one served model.
struct ModelMetrics {
  prometheus::Counter* prompt_tokens;
  prometheus::Counter* generation_tokens;
  prometheus::Counter* cached_prompt_tokens;  // as told to clients
  prometheus::Gauge* requests_running;
  prometheus::Gauge* requests_waiting;
  prometheus::Gauge* tokens_waiting;  // owed by what waits
  prometheus::Gauge* oldest_waiting;  // seconds
  prometheus::Gauge* kv_cache_usage;  // 0..1, fullest KvGroup
  prometheus::Gauge* kv_block_tokens;
  prometheus::Gauge* sequences_max;            // that a ready group computes at once
  prometheus::Gauge* ready;                    // 1: a group is ready and makes progress
  prometheus::Histogram* time_to_first_token;  // seconds, arrival to first token
  prometheus::Histogram* inter_token_latency;  // seconds
  prometheus::Histogram* request_latency;      // seconds, end to end
  prometheus::Histogram* queue_time;           // seconds, arrival to first scheduled
  prometheus::Histogram* prefill_time;         // seconds, first scheduled to first token
  prometheus::Histogram* decode_time;          // seconds, first to last token
  prometheus::Histogram* inference_time;       // seconds, first scheduled to last token
  prometheus::Histogram* time_per_token;       // seconds, mean of one request
  prometheus::Histogram* prompt_length;        // tokens
  prometheus::Histogram* computed_prompt_length;
  prometheus::Histogram* generation_length;          // tokens of all choices
  prometheus::Histogram* longest_generation_length;  // tokens of one choice
  prometheus::Histogram* request_choices;
  prometheus::Histogram* request_max_tokens;
  prometheus::Counter* steps;
  prometheus::Histogram* step_time;        // seconds on the slowest rank
  prometheus::Histogram* step_time_error;  // of the prediction, over what was measured
  prometheus::Histogram* step_rows;
  prometheus::Histogram* step_tokens;
  prometheus::Counter* computed_tokens;    // by ranks
  prometheus::Counter* recomputed_tokens;  // of computed_tokens
  prometheus::Counter* overrun_tokens;     // of computed_tokens
  prometheus::Counter* padded_tokens;
  prometheus::Counter* prefix_cache_queries;  // tokens
  prometheus::Counter* prefix_cache_hits;     // tokens
  prometheus::Counter* preemptions;
  prometheus::Counter* gpu_wall_seconds;
};

// Of one tenant: what is counted with every token.
struct TenantMetrics {
  prometheus::Counter* prompt_tokens;
  prometheus::Counter* generation_tokens;
};

// Of one rank of one group.
struct RankMetrics {
  prometheus::Gauge* up;
  prometheus::Counter* steps;
  prometheus::Counter* slowest_steps;
  prometheus::Gauge* last_progress;
  prometheus::Gauge* resident_bytes;
};

struct ProcessMetrics {
  prometheus::Gauge* http_connections;
  prometheus::Gauge* uptime;
  prometheus::Gauge* resident_bytes;
};

// Families whose label values come at run time.
struct LabelledMetrics {
  Labelled<prometheus::Counter> finished;
  Labelled<prometheus::Counter> rejected;
  Labelled<prometheus::Counter> slo;
  Labelled<prometheus::Gauge> slo_target;
  Labelled<prometheus::Counter> tenant_finished;
  Labelled<prometheus::Counter> tenant_refused;
  Labelled<prometheus::Counter> auth_failures;
  Labelled<prometheus::Counter> gpu_seconds;
  Labelled<prometheus::Gauge> gpu_price;
  Labelled<prometheus::Counter> gpu_energy;
  Labelled<prometheus::Gauge> kv_blocks;
  Labelled<prometheus::Histogram> rank_skew;
  Labelled<prometheus::Counter> group_losses;
  Labelled<prometheus::Gauge> group_load_time;
  Labelled<prometheus::Counter> rank_device;
  Labelled<prometheus::Counter> rank_experts;
  Labelled<prometheus::Counter> http;
  Labelled<prometheus::Counter> grpc;
  Labelled<prometheus::Gauge> build;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TELEMETRY_SERIES_H_
