// Flags of `tessera serve`. Most go to the coordinator as they are; it checks them.

#include "cli/serve.h"

#include "cli/launcher.h"
#include "cli/serve_screen.h"

namespace tessera {
namespace {

struct PassedFlag {
  const char* name;
  const char* type;
  const char* help;
};

constexpr PassedFlag kPassedFlags[] = {
    {"--host", "ADDRESS", "Address of the HTTP, gRPC and health doors [127.0.0.1]"},
    {"--http-port", "PORT", "HTTP port, 0 picks a free one [8000]"},
    {"--grpc-port", "PORT", "gRPC port, 0 picks a free one [50051]"},
    {"--health-port", "PORT", "Port of grpc.health.v1 alone, 0 picks a free one [50052]"},
    {"--dtype", "auto|bfloat16|float32", "Weights and activations [auto: as stored]"},
    {"--load-format", "auto|dummy", "dummy makes weights up; config.json is enough [auto]"},
    {"--quantize", "none|fp8", "fp8 keeps the layers' matrices as float8, made at load [none]"},
    {"--memory", "SIZE", "Most memory one rank may use, e.g. 8GiB [what is free]"},
    {"--kv-memory", "SIZE", "KV cache of one rank, e.g. 2GiB [1GiB or one whole context]"},
    {"--context-max", "TOKENS", "Tokens of one sequence [the model's own limit]"},
    {"--tokens-max", "TOKENS", "Tokens of one step [2048]"},
    {"--rows-max", "ROWS", "Sequences of one step [256]"},
    {"--chunk-max", "TOKENS", "Prompt tokens of one sequence in one step [512]"},
    {"--waiting-max", "REQUESTS", "Requests that may wait before 429 [1024]"},
    {"--waiting-tokens-max", "TOKENS", "Tokens that may wait before 429 [33554432]"},
    {"--waiting-bytes-max", "SIZE", "Memory of waiting requests before 429 [512MiB]"},
    {"--inter-token-target-ms", "MS", "Prompts take no more of a running stream's step [0: off]"},
    {"--priority-ageing-s", "SECONDS", "A waiting request gains a step of priority per this [10]"},
    {"--plans-in-flight", "1|2", "Plans a group holds at once; 2 overlaps steps [2]"},
    {"--api-keys", "FILE", "Tenants and API keys; make one with `tessera keygen` [everybody]"},
    {"--cache-secret-file", "FILE", "32 or more random bytes for the prefix cache's keys [new]"},
    {"--metrics-compat", "vllm", "Show metrics under that server's names too [no]"},
    {"--slo-ttft-ms", "MS", "Time to the first token of a good request, for goodput [2000]"},
    {"--slo-tpot-ms", "MS", "Time between its tokens, likewise [100]"},
    {"--price-file", "FILE", "Device prices, see deploy/prices/example.yaml [count no money]"},
    {"--api-prices", "FILE", "Prices of others to compare with [compare with nobody]"},
    {"--audit-log", "FILE", "Append a line about every call, never its text [no]"},
    {"--usage-dir", "DIR", "Keep a line per finished request here; read by `tessera usage` [no]"},
    {"--admin-port", "PORT", "Admin API on 127.0.0.1, 0 picks a free port [off]"},
    {"--admin-listen", "HOST:PORT", "Admin API on another address; needs a token [off]"},
    {"--admin-token-file", "FILE", "What callers of the admin API must send [nothing]"},
    {"--heartbeats-missed-max", "N", "Heartbeats (250 ms) a rank may miss [4]"},
    {"--drain-seconds", "SECONDS", "How long Ctrl-C waits for open requests [30]"},
};

}  // namespace

CLI::App* AddServeCommand(CLI::App& app, ServeOptions& options) {
  CLI::App* command = app.add_subcommand(
      "serve", "Start a coordinator and its ranks on this machine and serve a model");
  command
      ->add_option(
          "--model,model", options.models,
          "Model directory (Hugging Face layout) or ORG/NAME[@REVISION] of one in the Hugging Face "
          "cache, as [NAME=]MODEL; repeat for several models")
      ->required()
      ->type_name("[NAME=]MODEL");
  command
      ->add_option("--chat-template", options.chat_templates,
                   "Jinja file in place of the model's own chat template, as [NAME=]FILE")
      ->type_name("[NAME=]FILE");
  command->add_option("--tp", options.tp, "Tensor-parallel ranks per model: 1, 2, 4 or 8 [1]")
      ->check(CLI::IsMember({1, 2, 4, 8}));
  command
      ->add_option("--comm", options.comm,
                   "auto, or solo: one rank of --tp alone, with its own part of every collective, "
                   "to measure a shard; answers are not the model's [auto]")
      ->check(CLI::IsMember({"auto", "solo"}));
  command->add_option("--device", options.device, "auto, cpu or cuda [auto]")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  command->add_option("--threads", options.threads, "Threads of one CPU rank [cores / ranks]")
      ->check(CLI::Range(1, 1024));
  command->add_option("--ready-file", options.ready_file,
                      "Write the addresses here as JSON once requests are accepted");
  command->add_flag("--reflection", options.reflection, "Serve gRPC reflection (for grpcurl)");
  command->add_flag_function(
      "--console,!--no-console",
      [&options](int64_t wanted) {
        options.console_flag = wanted > 0 ? "--console" : "--no-console";
      },
      "Serve the console, a page in the browser, at / of the HTTP door, or not [if --host is this "
      "machine alone]");
  command->add_flag("--no-prefix-cache", options.no_prefix_cache,
                    "Compute every prompt from its first token");
  command->add_flag("--deterministic", options.deterministic,
                    "On GPUs: the same bits in every company and for every --tp, at a cost");
  command->add_flag("--eager", options.eager,
                    "On GPUs: launch every kernel by itself instead of recorded decode steps");
  command->add_flag("-v,--verbose", options.verbose, "Show the log of every process");
  for (const PassedFlag& flag : kPassedFlags) {
    command
        ->add_option_function<std::string>(
            flag.name,
            [&options, name = std::string(flag.name)](const std::string& value) {
              options.coordinator_flags.emplace_back(name, value);
            },
            flag.help)
        ->type_name(flag.type);
  }
  return command;
}

int RunServe(const ServeOptions& options) {
  ServeScreen screen;
  return Launcher(options, screen).Run();
}

}  // namespace tessera
