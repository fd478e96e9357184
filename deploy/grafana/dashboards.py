"""The six dashboards, panel by panel. Writes them beside itself as JSON, which is what Grafana imports:

    python3 deploy/grafana/dashboards.py            writes; --check only says whether they are what is written here

A description names the metric; a test looks every name up in coordinator/telemetry/METRICS.md.
"""

import json
import pathlib
import sys

from panels import dashboard, mean, panel, quantiles, query, rate, row, stat

HERE = pathlib.Path(__file__).resolve().parent
MODEL = 'model_name=~"$model_name"'
GROUP = 'group=~"$group"'
IDLE = 'kind=~"idle_.*"'
WASTE = 'kind=~"recompute|overrun|padding|capture|recovery"'
PRICE = "* on (model_name) group_left (currency) max by (model_name, currency) (tessera_gpu_hourly_price)"


def overview():
    return dashboard(
        "tessera-overview", "Tessera / Overview and SLO",
        "Are requests answered, and well? Targets are --slo-ttft-ms and --slo-tpot-ms.",
        stat("Requests", "Ended per second: tessera_requests_total.", "reqps",
             f"sum(rate(tessera_requests_total{{{MODEL}}}[$__rate_interval]))"),
        stat("Good requests", "Share that met all targets: tessera_requests_slo_total.", "percentunit",
             f"min(tessera:goodput:ratio5m{{{MODEL}}})", decimals=1,
             thresholds=((0, "red"), (0.9, "orange"), (0.99, "green"))),
        stat("Prompt tokens", "Per second: tessera_prompt_tokens_total.", "short",
             f"sum(rate(tessera_prompt_tokens_total{{{MODEL}}}[$__rate_interval]))"),
        stat("Generated tokens", "Per second: tessera_generation_tokens_total.", "short",
             f"sum(rate(tessera_generation_tokens_total{{{MODEL}}}[$__rate_interval]))"),
        stat("Server errors", "Share of the answers of both doors: tessera_http_requests_total, "
             "tessera_grpc_requests_total.", "percentunit", "tessera:errors:ratio5m", decimals=2,
             thresholds=((0.01, "red"),)),
        stat("Models ready", "Of those that are served: tessera_model_ready.", "percentunit",
             f"avg(tessera_model_ready{{{MODEL}}})", thresholds=((0, "red"), (1, "green"))),
        row("Targets"),
        panel("First token", "Arrival to first token, and the target: tessera_time_to_first_token_seconds, "
              "tessera_slo_target_seconds.", "s", *quantiles("tessera_time_to_first_token_seconds"),
              query('max(tessera_slo_target_seconds{slo="ttft"})', "target")),
        panel("Time per token of a request", "Mean of each request's slowest choice, and the target: "
              "tessera_request_time_per_output_token_seconds, tessera_slo_target_seconds.", "s",
              *quantiles("tessera_request_time_per_output_token_seconds"),
              query('max(tessera_slo_target_seconds{slo="tpot"})', "target")),
        panel("Good requests and all", "Per second: tessera_requests_slo_total.", "reqps",
              query(f"tessera:goodput:rate5m{{{MODEL}}}", "{{model_name}} good"),
              query(rate("tessera_requests_slo_total", labels=f'{MODEL}, slo="all"'), "{{model_name}} all")),
        panel("Misses by target", "Share of the requests: tessera_requests_slo_total.", "percentunit",
              query(f"tessera:slo_misses:ratio5m{{{MODEL}}}", "{{model_name}} {{slo}}"), maximum=1),
        row("Requests"),
        panel("By how they ended", "Per second: tessera_requests_total.", "reqps",
              query(rate("tessera_requests_total", by="finish_reason"), "{{finish_reason}}"), stacked=True),
        panel("Refused", "Per second, before any work: tessera_admission_rejections_total.", "reqps",
              query(rate("tessera_admission_rejections_total", by="model_name, reason"),
                    "{{model_name}} {{reason}}")),
        panel("Whole requests", "Arrival to end: tessera_e2e_request_latency_seconds.", "s",
              *quantiles("tessera_e2e_request_latency_seconds")),
        panel("Between two tokens", "tessera_inter_token_latency_seconds.", "s",
              *quantiles("tessera_inter_token_latency_seconds")),
        panel("Running and waiting", "tessera_requests_running, tessera_requests_waiting.", "short",
              query(f"sum by (model_name) (tessera_requests_running{{{MODEL}}})", "{{model_name}} running"),
              query(f"sum by (model_name) (tessera_requests_waiting{{{MODEL}}})", "{{model_name}} waiting")),
        panel("Tokens", "Per second: tessera_prompt_tokens_total, tessera_generation_tokens_total.", "short",
              query(f"tessera:tokens:rate5m{{{MODEL}}}", "{{model_name}} {{phase}}")),
        row("Doors"),
        panel("HTTP answers", "Per second: tessera_http_requests_total.", "reqps",
              query("sum by (code) (rate(tessera_http_requests_total[$__rate_interval]))", "{{code}}"), stacked=True),
        panel("gRPC calls", "Per second: tessera_grpc_requests_total.", "reqps",
              query("sum by (code) (rate(tessera_grpc_requests_total[$__rate_interval]))", "{{code}}"), stacked=True))


def capacity():
    kv_tokens = (f'sum by (model_name) (tessera_kv_cache_blocks{{{MODEL}, kv_group="0"}}) '
                 f"* on (model_name) max by (model_name) (tessera_kv_cache_block_tokens{{{MODEL}}})")
    little = rate("tessera_e2e_request_latency_seconds_sum")
    return dashboard(
        "tessera-capacity", "Tessera / Capacity planning", "How much more can it bear, and what would end first?",
        stat("Headroom", "What is left of sequences or KV blocks, whichever is less: tessera_requests_running, "
             "tessera_sequences_max, tessera_kv_cache_usage_ratio.", "percentunit",
             f"min(tessera:headroom:ratio{{{MODEL}}})", thresholds=((0, "red"), (0.1, "orange"), (0.25, "green"))),
        stat("Ranks up", "tessera_rank_up.", "short", f"sum(tessera_rank_up{{{GROUP}}})"),
        stat("KV cache", "Tokens that all ready groups hold: tessera_kv_cache_blocks, tessera_kv_cache_block_tokens.",
             "short", f"sum({kv_tokens})"),
        stat("Groups busy", "Share of the time in steps, of the busiest model: tessera_step_time_seconds.",
             "percentunit", f'max({rate("tessera_step_time_seconds_sum")})'),
        stat("Time to empty the queue", "Tokens that wait over tokens computed per second: tessera_tokens_waiting, "
             "tessera_computed_tokens_total.", "s",
             f"max(sum by (model_name) (tessera_tokens_waiting{{{MODEL}}}) / {rate('tessera_computed_tokens_total')})"),
        stat("Longest load", "Of the last starts: tessera_group_load_seconds. A lost host costs as long.", "s",
             f"max(tessera_group_load_seconds{{{MODEL}}})"),
        row("What ends first"),
        panel("Headroom by limit", "tessera_requests_running, tessera_sequences_max, tessera_kv_cache_usage_ratio.",
              "percentunit", query(f"tessera:headroom:ratio{{{MODEL}}}", "{{model_name}} {{limit}}"), maximum=1),
        panel("KV use in an hour", "If it goes on as in the last 15 minutes: tessera_kv_cache_usage_ratio.",
              "percentunit", query(f"clamp_min(max by (model_name) (predict_linear(tessera_kv_cache_usage_ratio"
                                   f"{{{MODEL}}}[15m], 3600)), 0)", "{{model_name}}"),
              thresholds=((1, "red"),)),
        panel("Sequences: asked for, running, possible", "Requests per second times their duration (Little's law): "
              "tessera_e2e_request_latency_seconds; tessera_requests_running, tessera_sequences_max.", "short",
              query(little, "{{model_name}} asked for"),
              query(f"sum by (model_name) (tessera_requests_running{{{MODEL}}})", "{{model_name}} running"),
              query(f"sum by (model_name) (tessera_sequences_max{{{MODEL}}})", "{{model_name}} possible")),
        panel("KV tokens: asked for and there", "Requests in flight times prompt and half the answer: "
              "tessera_e2e_request_latency_seconds, tessera_request_prompt_tokens, tessera_request_generation_tokens; "
              "tessera_kv_cache_blocks, tessera_kv_cache_block_tokens.", "short",
              query(f"{little} * ({mean('tessera_request_prompt_tokens')} + "
                    f"{mean('tessera_request_generation_tokens')} / 2)", "{{model_name}} asked for"),
              query(kv_tokens, "{{model_name}} there")),
        row("Signs of the knee"),
        panel("First token, p99 over p50", "Diverges when queues build up: tessera_time_to_first_token_seconds.",
              "short", query("histogram_quantile(0.99, sum by (le, model_name) (rate("
                             f"tessera_time_to_first_token_seconds_bucket{{{MODEL}}}[$__rate_interval])))"
                             " / histogram_quantile(0.5, sum by (le, model_name) (rate("
                             f"tessera_time_to_first_token_seconds_bucket{{{MODEL}}}[$__rate_interval])))",
                             "{{model_name}}")),
        panel("Age of the oldest request that waits", "tessera_oldest_waiting_seconds.", "s",
              query(f"max by (model_name) (tessera_oldest_waiting_seconds{{{MODEL}}})", "{{model_name}}")),
        row("What the machines do with it"),
        panel("Tokens per second and rank", "tessera_generation_tokens_total, tessera_computed_tokens_total, tessera_rank_up.", "short",
              query(f"sum(rate(tessera_generation_tokens_total{{{MODEL}}}[$__rate_interval]))"
                    f" / sum(tessera_rank_up{{{GROUP}}})", "generated"),
              query(f"sum(rate(tessera_computed_tokens_total{{{MODEL}}}[$__rate_interval]))"
                    f" / sum(tessera_rank_up{{{GROUP}}})", "computed")),
        panel("Sequences in a step", "Mean: tessera_step_rows.", "short",
              query(mean("tessera_step_rows"), "{{model_name}}")),
        panel("Prompts", "tessera_request_prompt_tokens.", "short",
              *quantiles("tessera_request_prompt_tokens", of=(0.5, 0.95))),
        panel("Answers", "tessera_request_generation_tokens.", "short",
              *quantiles("tessera_request_generation_tokens", of=(0.5, 0.95))))


def kv_and_scheduler():
    return dashboard(
        "tessera-kv", "Tessera / KV cache and scheduler", "Who waits for what, and what is computed twice.",
        panel("KV use", "Blocks held by sequences, in the fullest KV group: tessera_kv_cache_usage_ratio.",
              "percentunit", query(f"tessera:kv_usage:max{{{MODEL}}}", "{{model_name}}"), maximum=1,
              thresholds=((0.9, "orange"), (0.98, "red"))),
        panel("KV blocks", "Held by sequences, cached for later prompts, empty: tessera_kv_cache_blocks.", "short",
              query(f"sum by (kv_group, state) (tessera_kv_cache_blocks{{{MODEL}}})", "{{kv_group}} {{state}}"),
              stacked=True),
        panel("Prefix cache hits", "Of the tokens looked up: tessera_prefix_cache_hits_total, "
              "tessera_prefix_cache_queries_total.", "percentunit",
              query(f'{rate("tessera_prefix_cache_hits_total")} / {rate("tessera_prefix_cache_queries_total")}',
                    "{{model_name}}"), maximum=1),
        panel("Cached share of the prompts", "As told to clients: tessera_cached_prompt_tokens_total, "
              "tessera_prompt_tokens_total.", "percentunit",
              query(f'{rate("tessera_cached_prompt_tokens_total")} / {rate("tessera_prompt_tokens_total")}',
                    "{{model_name}}"), maximum=1),
        row("Queue"),
        panel("Requests", "tessera_requests_waiting, tessera_requests_running, tessera_sequences_max.", "short",
              query(f"sum by (model_name) (tessera_requests_waiting{{{MODEL}}})", "{{model_name}} waiting"),
              query(f"sum by (model_name) (tessera_requests_running{{{MODEL}}})", "{{model_name}} running"),
              query(f"sum by (model_name) (tessera_sequences_max{{{MODEL}}})", "{{model_name}} most")),
        panel("Tokens that wait", "tessera_tokens_waiting.", "short",
              query(f"sum by (model_name) (tessera_tokens_waiting{{{MODEL}}})", "{{model_name}}")),
        panel("Time in the queue", "Arrival to first step: tessera_request_queue_time_seconds.", "s",
              *quantiles("tessera_request_queue_time_seconds")),
        panel("Oldest", "tessera_oldest_waiting_seconds.", "s",
              query(f"max by (model_name) (tessera_oldest_waiting_seconds{{{MODEL}}})", "{{model_name}}")),
        row("Waste"),
        panel("Computed for nothing", "Tokens per second: tessera_recomputed_tokens_total (lost by preemption or with "
              "a group), tessera_overrun_tokens_total (past an end), tessera_padded_tokens_total.", "short",
              query(rate("tessera_recomputed_tokens_total"), "{{model_name}} recomputed"),
              query(rate("tessera_overrun_tokens_total"), "{{model_name}} overrun"),
              query(rate("tessera_padded_tokens_total"), "{{model_name}} padded")),
        panel("Preemptions", "Sequences per second: tessera_preemptions_total.", "short",
              query(rate("tessera_preemptions_total"), "{{model_name}}")),
        row("Steps"),
        panel("Step time", "On the slowest rank: tessera_step_time_seconds.", "s",
              *quantiles("tessera_step_time_seconds")),
        panel("Error of its prediction", "Mean, of the measured time: tessera_step_time_error_ratio.", "percentunit",
              query(mean("tessera_step_time_error_ratio"), "{{model_name}}")),
        panel("Sequences in a step", "tessera_step_rows.", "short", *quantiles("tessera_step_rows", of=(0.5, 0.95))),
        panel("Tokens in a step", "tessera_step_tokens.", "short", *quantiles("tessera_step_tokens", of=(0.5, 0.95))),
        panel("Steps", "Per second: tessera_steps_total.", "short", query(rate("tessera_steps_total"), "{{model_name}}")),
        panel("Parts of a request", "Mean time in the queue, to the first token, and from there to the last: "
              "tessera_request_queue_time_seconds, tessera_request_prefill_time_seconds, "
              "tessera_request_decode_time_seconds.", "s",
              query(mean("tessera_request_queue_time_seconds"), "{{model_name}} queue"),
              query(mean("tessera_request_prefill_time_seconds"), "{{model_name}} prefill"),
              query(mean("tessera_request_decode_time_seconds"), "{{model_name}} decode"), stacked=True))


def gpus():
    device = f"rate(tessera_rank_device_seconds_total{{{GROUP}}}[$__rate_interval])"
    dcgm = "From dcgm-exporter: "
    return dashboard(
        "tessera-gpu", "Tessera / GPUs, collectives and energy", "What the devices do, and whether one holds the "
        "others up. CPU ranks count as devices.",
        panel("Device time", "Seconds per second over all ranks: tessera_rank_device_seconds_total.", "short",
              query(f"sum by (kind) ({device})", "{{kind}}"), stacked=True),
        panel("Share of collectives", "Of the time in steps: tessera_rank_device_seconds_total.", "percentunit",
              query(f'sum by (group) (rate(tessera_rank_device_seconds_total{{{GROUP}, kind="collective"}}'
                    f'[$__rate_interval])) / sum by (group) (rate(tessera_rank_device_seconds_total{{{GROUP}, '
                    'kind!="idle"}[$__rate_interval]))', "group {{group}}"), maximum=1),
        panel("Rank skew", "Slowest rank's own time of a step over the median rank's: tessera_step_rank_skew_ratio.",
              "short", query(mean("tessera_step_rank_skew_ratio", labels=GROUP, by="group"), "group {{group}}"),
              thresholds=((1.2, "orange"),)),
        panel("Who is the slowest", "Share of the steps: tessera_rank_slowest_steps_total.", "percentunit",
              query(f"sum by (group, rank) (rate(tessera_rank_slowest_steps_total{{{GROUP}}}[$__rate_interval]))"
                    f" / on (group) group_left () sum by (group) (rate(tessera_rank_slowest_steps_total{{{GROUP}}}"
                    "[$__rate_interval]))", "{{group}}/{{rank}}"), maximum=1),
        panel("Memory of the ranks", "Of their processes: tessera_rank_resident_bytes.", "bytes",
              query(f"tessera_rank_resident_bytes{{{GROUP}}}", "{{group}}/{{rank}}")),
        panel("Experts", "Tokens per second, models with experts only: tessera_rank_expert_tokens_total.", "short",
              query(f"sum by (group, rank) (rate(tessera_rank_expert_tokens_total{{{GROUP}}}[$__rate_interval]))",
                    "{{group}}/{{rank}}")),
        row("Energy"),
        panel("Power", "By the ranks' own counters: tessera_gpu_energy_joules_total.", "watt",
              query(f"sum by (group, rank) (rate(tessera_gpu_energy_joules_total{{{GROUP}}}[$__rate_interval]))",
                    "{{group}}/{{rank}}"), stacked=True),
        panel("Energy per generated token", "tessera_gpu_energy_joules_total, tessera_generation_tokens_total.",
              "joule", query(f"sum(rate(tessera_gpu_energy_joules_total{{{GROUP}}}[$__rate_interval]))"
                             f" / sum(rate(tessera_generation_tokens_total{{{MODEL}}}[$__rate_interval]))", "joules")),
        row("Devices, by dcgm-exporter"),
        panel("Tensor cores active", dcgm + "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE. High in prefill.", "percentunit",
              query("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "{{Hostname}} {{gpu}}"), maximum=1),
        panel("Memory active", dcgm + "DCGM_FI_PROF_DRAM_ACTIVE. High in decode.", "percentunit",
              query("DCGM_FI_PROF_DRAM_ACTIVE", "{{Hostname}} {{gpu}}"), maximum=1),
        panel("Power of the device", dcgm + "DCGM_FI_DEV_POWER_USAGE.", "watt",
              query("DCGM_FI_DEV_POWER_USAGE", "{{Hostname}} {{gpu}}")),
        panel("Temperature", dcgm + "DCGM_FI_DEV_GPU_TEMP.", "celsius",
              query("DCGM_FI_DEV_GPU_TEMP", "{{Hostname}} {{gpu}}")),
        panel("NVLink", dcgm + "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL.", "short",
              query("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "{{Hostname}} {{gpu}}")),
        panel("Faults", dcgm + "DCGM_FI_DEV_XID_ERRORS (the last XID), DCGM_FI_DEV_ROW_REMAP_FAILURE.", "short",
              query("DCGM_FI_DEV_XID_ERRORS", "{{Hostname}} {{gpu}} XID"),
              query("DCGM_FI_DEV_ROW_REMAP_FAILURE", "{{Hostname}} {{gpu}} rows")))


def cost():
    hourly = "tessera:gpu_cost:rate1h"
    spent = "increase(tessera_gpu_seconds_total{%s}[$__range])"
    return dashboard(
        "tessera-cost", "Tessera / Cost and chargeback",
        "Every second of every device has an owner: a tenant's work, waste, or idling. Prices are the price book's; "
        "sums over an hour need an hour. Currencies are in the legends.",
        stat("Cost per hour", "All devices, idle ones too: tessera_gpu_seconds_total, tessera_gpu_hourly_price.",
             "currency:", f"sum({hourly}{{{MODEL}}})", decimals=2),
        stat("Idle per hour", "Devices that compute nothing: tessera_gpu_seconds_total.", "currency:",
             f"sum({hourly}{{{MODEL}, {IDLE}}})", decimals=2),
        stat("Waste per hour", "Recomputed, overrun, padded, captured, recovering: tessera_gpu_seconds_total.",
             "currency:", f"sum({hourly}{{{MODEL}, {WASTE}}}) or 0 * sum({hourly}{{{MODEL}}})", decimals=2),
        stat("Useful", "Prefill and decode, of the devices' time: tessera_gpu_seconds_total.", "percentunit",
             f"min(tessera:gpu_useful:ratio1h{{{MODEL}}})", decimals=1),
        stat("Per million tokens", "Prompt and generated, idle time included: tessera_gpu_seconds_total, "
             "tessera_prompt_tokens_total, tessera_generation_tokens_total.", "currency:",
             f'max(tessera:cost_per_mtok:1h{{{MODEL}, kind="blended"}})', decimals=3),
        stat("Ledger and clock", "What is charged over what has passed; 1 when nothing is lost: "
             "tessera_gpu_seconds_total, tessera_gpu_wall_seconds_total.", "percentunit",
             f"sum(increase(tessera_gpu_seconds_total{{{MODEL}}}[$__range]))"
             f" / sum(increase(tessera_gpu_wall_seconds_total{{{MODEL}}}[$__range]))", decimals=2),
        row("Money"),
        panel("Cost per hour by tenant", "Nobody's is idle, loading and recovery: tessera_gpu_seconds_total, "
              "tessera_gpu_hourly_price.", "currency:",
              query(f"sum by (tenant, currency) ({hourly}{{{MODEL}}})", "{{tenant}} {{currency}}"), stacked=True),
        panel("Cost per hour by kind", "tessera_gpu_seconds_total, tessera_gpu_hourly_price.", "currency:",
              query(f"sum by (kind, currency) ({hourly}{{{MODEL}}})", "{{kind}} {{currency}}"), stacked=True),
        panel("Cost per million tokens", "Input by prefill, output by decode, blended by everything: "
              "tessera_gpu_seconds_total, tessera_prompt_tokens_total, tessera_cached_prompt_tokens_total, "
              "tessera_generation_tokens_total.", "currency:",
              query(f"tessera:cost_per_mtok:1h{{{MODEL}}}", "{{model_name}} {{kind}} {{currency}}")),
        panel("Price of a device", "Per hour, by the price book: tessera_gpu_hourly_price.", "currency:",
              query(f"tessera_gpu_hourly_price{{{MODEL}}}", "{{model_name}} {{currency}}")),
        row("Who had what, over the time shown"),
        panel("Money by tenant", "tessera_gpu_seconds_total, tessera_gpu_hourly_price.", "currency:",
              query("sort_desc(sum by (tenant, currency) (sum by (model_name, tenant) (" + spent % f'{MODEL}, tenant!=""'
                    + f") {PRICE} / 3600))"), kind="table"),
        panel("GPU-seconds by tenant and kind", "tessera_gpu_seconds_total.", "s",
              query("sum by (tenant, kind) (" + spent % MODEL + ")"), kind="table"),
        panel("Tokens generated by tenant", "Per second: tessera_tenant_generation_tokens_total.", "short",
              query("sum by (tenant) (rate(tessera_tenant_generation_tokens_total[$__rate_interval]))", "{{tenant}}"),
              stacked=True),
        panel("Prompt tokens by tenant", "Per second: tessera_tenant_prompt_tokens_total.", "short",
              query("sum by (tenant) (rate(tessera_tenant_prompt_tokens_total[$__rate_interval]))", "{{tenant}}"),
              stacked=True),
        panel("Requests by tenant", "Per second: tessera_tenant_requests_total.", "reqps",
              query("sum by (tenant) (rate(tessera_tenant_requests_total[$__rate_interval]))", "{{tenant}}"),
              stacked=True),
        panel("Refused by a limit of the tenant's own", "Per second: tessera_tenant_refusals_total.", "reqps",
              query("sum by (tenant, limit) (rate(tessera_tenant_refusals_total[$__rate_interval]))",
                    "{{tenant}} {{limit}}")),
        row("Time"),
        panel("Devices by kind of work", "GPU-seconds per second: tessera_gpu_seconds_total.", "short",
              query(f"sum by (kind) (tessera:gpu_seconds:rate5m{{{MODEL}}})", "{{kind}}"), stacked=True),
        panel("Useful and wasted", "Of the devices' time: tessera_gpu_seconds_total.", "percentunit",
              query(f"tessera:gpu_useful:ratio1h{{{MODEL}}}", "{{model_name}} useful"),
              query(f"tessera:gpu_waste:ratio1h{{{MODEL}}}", "{{model_name}} wasted"), maximum=1))


def health():
    return dashboard(
        "tessera-health", "Tessera / Rollout and health", "What runs where, since when, and what is wrong with it.",
        stat("Coordinators up", "Scrapes that are answered: up.", "short", 'sum(up{job="tessera"})'),
        stat("Models not ready", "tessera_model_ready.", "short",
             f"count(tessera_model_ready{{{MODEL}}} == 0) or vector(0)", thresholds=((1, "red"),)),
        stat("Ranks down", "tessera_rank_up.", "short", f"count(tessera_rank_up{{{GROUP}}} == 0) or vector(0)",
             thresholds=((1, "red"),)),
        stat("Groups lost", "Over the time shown: tessera_group_losses_total.", "short",
             f"sum(increase(tessera_group_losses_total{{{MODEL}}}[$__range]))", thresholds=((1, "orange"),)),
        stat("Alerts firing", "ALERTS.", "short", 'count(ALERTS{alertname=~"Tessera.*", alertstate="firing"}) or vector(0)',
             thresholds=((1, "red"),)),
        stat("Youngest coordinator", "tessera_uptime_seconds.", "s", "min(tessera_uptime_seconds)"),
        row("Rollout"),
        panel("Builds", "How many coordinators run which: tessera_build_info.", "short",
              query("count by (version) (tessera_build_info)", "{{version}}"), stacked=True),
        panel("Uptime", "tessera_uptime_seconds.", "s", query("tessera_uptime_seconds", "{{instance}}")),
        panel("Models ready", "tessera_model_ready.", "short",
              query(f"tessera_model_ready{{{MODEL}}}", "{{instance}} {{model_name}}"), maximum=1),
        panel("Ranks up", "tessera_rank_up.", "short",
              query(f"sum by (group) (tessera_rank_up{{{GROUP}}})", "group {{group}}")),
        panel("Loading", "Assignment to ready, of the last start: tessera_group_load_seconds.", "s",
              query(f"tessera_group_load_seconds{{{MODEL}}}", "{{model_name}} {{group}}")),
        panel("Losses of groups", "In the last five minutes: tessera_group_losses_total.", "short",
              query(f"sum by (model_name, group) (increase(tessera_group_losses_total{{{MODEL}}}[5m]))",
                    "{{model_name}} {{group}}")),
        row("Life signs"),
        panel("Since the last step or heartbeat", "Of the rank that is furthest behind: "
              "tessera_rank_last_progress_timestamp_seconds.", "s",
              query(f"time() - min by (group) (tessera_rank_last_progress_timestamp_seconds{{{GROUP}}})",
                    "group {{group}}"), thresholds=((30, "red"),)),
        panel("Steps and heartbeats", "Per second: tessera_rank_steps_total.", "short",
              query(f"sum by (group, rank) (rate(tessera_rank_steps_total{{{GROUP}}}[$__rate_interval]))",
                    "{{group}}/{{rank}}")),
        panel("Server errors", "Share of the answers: tessera_http_requests_total, tessera_grpc_requests_total.",
              "percentunit", query("tessera:errors:ratio5m", "errors"), thresholds=((0.01, "red"),)),
        panel("Requests that did not end well", "Per second: tessera_requests_total.", "reqps",
              query(rate("tessera_requests_total", by="finish_reason", labels=f'{MODEL}, finish_reason=~'
                         '"cancelled|deadline|error|rejected"'), "{{finish_reason}}"), stacked=True),
        panel("HTTP by route", "Per second: tessera_http_requests_total.", "reqps",
              query("sum by (route, code) (rate(tessera_http_requests_total[$__rate_interval]))",
                    "{{route}} {{code}}")),
        panel("Calls without a valid key", "Per second: tessera_authentication_failures_total.", "reqps",
              query("sum by (reason) (rate(tessera_authentication_failures_total[$__rate_interval]))", "{{reason}}")),
        panel("Connections", "HTTP, open: tessera_http_connections.", "short",
              query("tessera_http_connections", "{{instance}}")),
        panel("Memory of the coordinator", "tessera_process_resident_bytes.", "bytes",
              query("tessera_process_resident_bytes", "{{instance}}")))


DASHBOARDS = {"overview": overview, "capacity": capacity, "kv_scheduler": kv_and_scheduler, "gpu": gpus, "cost": cost,
              "health": health}


def main():
    stale = []
    for name, make in DASHBOARDS.items():
        path = HERE / f"{name}.json"
        text = json.dumps(make(), indent=1) + "\n"
        if path.exists() and path.read_text() == text:
            continue
        stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(text)
    if stale and "--check" in sys.argv:
        sys.exit(f"not what dashboards.py says: {', '.join(stale)}; write them: python3 {__file__}")


if __name__ == "__main__":
    main()
