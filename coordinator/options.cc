// Flags and their help texts.

#include "coordinator/options.h"

#include <CLI/CLI.hpp>

#include "base/version.h"

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
  AddDoors(app, options);
  AddLimits(app, options);
  AddScheduling(app, options);
  AddTenants(app, options);
  AddLife(app, options);
  try {
    app.parse(argc, argv);
    if (options.rows_max > options.tokens_max) {
      throw CLI::ValidationError("--rows-max",
                                 "must not be more than --tokens-max: every row of a "
                                 "step has at least one token");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return std::nullopt;
}

}  // namespace tessera
