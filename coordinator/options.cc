// Flags and their help texts.

#include "coordinator/options.h"

#include <CLI/CLI.hpp>

#include "base/version.h"
#include "coordinator/telemetry/metric_table.h"

namespace tessera {
namespace {

void AddDoors(CLI::App& app, CoordinatorOptions& options) {
  app.add_option("--listen", options.listen,
                 "Address workers dial; use 0.0.0.0:PORT for workers on other machines");
  app.add_option("--host", options.host, "Address of the HTTP, gRPC and health doors");
  app.add_option("--http-port", options.http_port, "HTTP port, 0 picks a free one")
      ->check(CLI::Range(0, 65535));
  app.add_option("--grpc-port", options.grpc_port, "gRPC port, 0 picks a free one")
      ->check(CLI::Range(0, 65535));
  app.add_option("--health-port", options.health_port,
                 "Port of grpc.health.v1 alone, 0 picks a free one")
      ->check(CLI::Range(0, 65535));
  app.add_flag("--reflection", options.reflection, "Serve gRPC reflection (for grpcurl)");
  app.add_flag_function(
      "--console,!--no-console", [&options](int64_t wanted) { options.console = wanted > 0; },
      "Serve the console, a page in the browser, at / of the HTTP door, or not; without either, "
      "where --host is an address of this machine alone");
}

void AddLimits(CLI::App& app, CoordinatorOptions& options) {
  app.add_option("--dtype", options.dtype,
                 "Weights and activations: auto is float32 for float32 checkpoints, else bfloat16")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32"}));
  app.add_option("--memory", options.memory_bytes,
                 "Most memory one rank may use, e.g. 8GiB; 0: what its host has free")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--kv-memory", options.kv_memory_bytes,
                 "KV cache of one rank, e.g. 2GiB; 0: 1 GiB, or one whole context if that is more")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--context-max", options.context_max,
                 "Tokens of one sequence, prompt and output; 0: the model's own limit")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--tokens-max", options.tokens_max, "Tokens of one step")
      ->check(CLI::Range(16, 65536));
  app.add_option("--rows-max", options.rows_max, "Sequences of one step")
      ->check(CLI::Range(1, 4096));
  app.add_option("--chunk-max", options.chunk_max, "Prompt tokens of one sequence in one step")
      ->check(CLI::Range(1, 65536));
  app.add_option("--waiting-max", options.waiting_max,
                 "Requests that may wait; more are refused with 429")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--waiting-tokens-max", options.waiting_tokens_max,
                 "Tokens (prompt and max_tokens of each choice) that may wait, likewise")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  app.add_option("--waiting-bytes-max", options.waiting_bytes_max,
                 "Memory that prompts and parameters may hold while they wait, likewise")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 50));
}

void AddScheduling(CLI::App& app, CoordinatorOptions& options) {
  app.add_option("--inter-token-target-ms", options.inter_token_target_ms,
                 "A step with running streams takes no more prompt tokens than fit into this time; "
                 "0: only --tokens-max and --chunk-max bound it")
      ->check(CLI::Range(0.0, 60000.0));
  app.add_option("--priority-ageing-s", options.priority_ageing_seconds,
                 "A waiting request gains one step of priority per this many seconds")
      ->check(CLI::Range(0.001, 86400.0));
  app.add_option("--plans-in-flight", options.plans_in_flight,
                 "Plans a group holds at once: 2 overlaps steps, 1 waits for each answer")
      ->check(CLI::IsMember({1, 2}));
  app.add_flag("--no-prefix-cache", options.no_prefix_cache,
               "Compute every prompt from its first token");
}

void AddTenants(CLI::App& app, CoordinatorOptions& options) {
  app.add_option("--api-keys", options.api_keys,
                 "File of tenants and API keys (JSON, see coordinator/tenants/README.md), read "
                 "again when it changes; without it everybody may call")
      ->type_name("FILE");
  app.add_option("--cache-secret-file", options.cache_secret_file,
                 "At least 32 random bytes from which the prefix cache's keys are made; without it "
                 "new ones at every start")
      ->type_name("FILE");
}

void AddMetrics(CLI::App& app, CoordinatorOptions& options) {
  app.add_option("--metrics-compat", options.metrics_compat,
                 "Show metrics under the names of another server too: vllm")
      ->check(CLI::IsMember({"vllm"}));
  app.add_option("--slo-ttft-ms", options.slo_ttft_ms,
                 "Time to the first token that a good request meets; 0: no target")
      ->check(CLI::Range(0.0, 86400000.0));
  app.add_option("--slo-tpot-ms", options.slo_tpot_ms,
                 "Mean time between the tokens of a good request; 0: no target")
      ->check(CLI::Range(0.0, 86400000.0));
  app.add_flag_callback(
         "--metrics-reference",
         [] {
           std::string text = MetricsReference();
           text.pop_back();  // it is printed with a newline
           throw CLI::CallForVersion(text, 0);
         },
         "Print what every metric is, as Markdown")
      ->trigger_on_parse();
}

void AddUsage(CLI::App& app, CoordinatorOptions& options) {
  app.add_option(
         "--price-file", options.price_file,
         "What device hours cost (YAML, see deploy/prices/example.yaml), read again when it "
         "changes; without it GPU-seconds are counted and money is not")
      ->type_name("FILE");
  app.add_option(
         "--api-prices", options.api_prices,
         "What others ask for tokens (YAML, see deploy/prices/api-example.yaml), to compare "
         "with; read again when it changes")
      ->type_name("FILE");
  app.add_option("--usage-dir", options.usage_dir,
                 "Keep a line of JSON per finished request here (see coordinator/ledger/README.md)")
      ->type_name("DIR");
  CLI::Option* port =
      app.add_option_function<int>(
             "--admin-port",
             [&options](int value) { options.admin_listen = "127.0.0.1:" + std::to_string(value); },
             "Serve the admin API (usage, prices) on this port of 127.0.0.1, 0 picks a free one; "
             "without it, and --admin-listen, there is none")
          ->check(CLI::Range(0, 65535));
  app.add_option("--admin-listen", options.admin_listen,
                 "Serve the admin API on this address; off this machine only with a token")
      ->type_name("HOST:PORT")
      ->excludes(port);
  app.add_option("--admin-token-file", options.admin_token_file,
                 "At least 16 bytes that callers of the admin API must send as bearer token")
      ->type_name("FILE");
}

void AddLife(CLI::App& app, CoordinatorOptions& options) {
  app.add_option("--heartbeat-ms", options.heartbeat_ms, "Heartbeat interval of the workers")
      ->check(CLI::Range(10, 60000));
  app.add_option("--heartbeats-missed-max", options.heartbeats_missed_max,
                 "Heartbeats a worker may miss before its group is lost")
      ->check(CLI::Range(1, 1000));
  app.add_option("--drain-seconds", options.drain_seconds,
                 "How long SIGTERM waits for open requests")
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--ready-file", options.ready_file,
                 "Write the bound addresses here as JSON once requests are accepted");
  app.add_option("--status-fd", options.status_fd,
                 "Write progress as JSON lines to this open file descriptor");
  app.add_option("--control-fd", options.control_fd,
                 "Read from this open file descriptor, as JSON lines, which workers will not come "
                 "back; there are no others, so that a model can be lost for good");
  app.add_flag("--exit-on-load-failure", options.exit_on_load_failure,
               "Exit with the reason when a model cannot be loaded, instead of waiting for others; "
               "with --control-fd only at the start");
  app.add_option("--log-level", options.log_level, "Least severe message to log")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
  app.add_option("--log-format", options.log_format, "Lines of text, or JSON objects")
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option("--audit-log", options.audit_log,
                 "Where a line about every call goes: a file, \"log\" (the log, at level info) or "
                 "\"off\"");
}

}  // namespace

std::optional<int> ParseCoordinatorOptions(int argc, char** argv, CoordinatorOptions& options) {
  CLI::App app(
      "The Tessera coordinator: owns requests, scheduling and the front doors. Workers dial it;\n"
      "clients speak the OpenAI HTTP API or gRPC. `tessera serve` starts it with its workers.",
      "tessera-coordinator");
  app.set_version_flag("--version", kVersion);
  app.option_defaults()->always_capture_default();

  app.add_option(
         "--model", options.models,
         "Model directory (Hugging Face layout) or ORG/NAME[@REVISION] of one in the Hugging "
         "Face cache, as [NAME=]MODEL; repeat for several models")
      ->required()
      ->type_name("[NAME=]MODEL");
  app.add_option("--chat-template", options.chat_templates,
                 "Jinja file in place of the model's own chat template, as [NAME=]FILE")
      ->type_name("[NAME=]FILE");
  app.add_option("--tp", options.tp, "Tensor-parallel ranks per model")
      ->check(CLI::IsMember({1, 2, 4, 8}));
  app.add_option("--load-format", options.load_format,
                 "auto reads the checkpoint; dummy makes weights up from a seed, for measurements: "
                 "config.json is all that is needed")
      ->check(CLI::IsMember({"auto", "dummy"}));
  app.add_option("--comm", options.comm,
                 "auto connects the ranks of a model; solo runs one rank of --tp alone, with its "
                 "own part of every collective, to measure a shard: answers are not the model's")
      ->check(CLI::IsMember({"auto", "solo"}));
  app.add_option("--quantize", options.quantize,
                 "none keeps weights in --dtype; fp8 keeps the matrices of the layers as float8 "
                 "(E4M3), with a scale for every row, made while loading")
      ->check(CLI::IsMember({"none", "fp8"}));
  app.add_flag("--deterministic", options.deterministic,
               "On GPUs: the same bits whatever else is in a step, and for every --tp, at a cost; "
               "CPUs always compute so");
  app.add_flag("--eager", options.eager,
               "On GPUs: launch every kernel of a decode step by itself instead of recorded steps");
  AddDoors(app, options);
  AddLimits(app, options);
  AddScheduling(app, options);
  AddTenants(app, options);
  AddMetrics(app, options);
  AddUsage(app, options);
  AddLife(app, options);
  try {
    app.parse(argc, argv);
    if (options.rows_max > options.tokens_max) {
      throw CLI::ValidationError("--rows-max",
                                 "must not be more than --tokens-max: every row of a "
                                 "step has at least one token");
    }
    if (options.comm == "solo" && options.tp == 1) {
      throw CLI::ValidationError("--comm solo",
                                 "is one rank of several alone; give --tp 2, 4 or 8 too");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return std::nullopt;
}

}  // namespace tessera
