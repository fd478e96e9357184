// The coordinator's command line. Parsed once by main, constant afterwards.

#ifndef TESSERA_COORDINATOR_OPTIONS_H_
#define TESSERA_COORDINATOR_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tessera {

struct CoordinatorOptions {
  std::vector<std::string> models;          // [name=]directory or [name=]org/name[@revision]
  std::vector<std::string> chat_templates;  // [name=]file
  int tp = 1;
  std::string load_format = "auto";
  std::string comm = "auto";
  std::string quantize = "none";
  bool deterministic = false;
  bool eager = false;
  std::string listen = "127.0.0.1:50050";  // workers dial this
  std::string host = "127.0.0.1";          // of the public doors
  int http_port = 8000;
  int grpc_port = 50051;
  int health_port = 50052;
  bool reflection = false;
  std::optional<bool> console;  // unset: where --host is this machine alone
  std::string dtype = "auto";
  uint64_t kv_memory_bytes = 0;  // 0: see DefaultKvBytes in model_setup.cc
  uint64_t memory_bytes = 0;     // 0: what is free
  int64_t context_max = 0;       // 0: the model's own
  int64_t tokens_max = 2048;
  int64_t rows_max = 256;
  int64_t chunk_max = 512;
  int64_t waiting_max = 1024;                        // requests
  int64_t waiting_tokens_max = int64_t{1} << 25;     // prompt + max_tokens x choices
  uint64_t waiting_bytes_max = uint64_t{512} << 20;  // of prompts and parameters
  int plans_in_flight = 2;
  bool no_prefix_cache = false;
  double inter_token_target_ms = 0;  // 0: none
  double priority_ageing_seconds = 10;
  std::string api_keys;           // file; empty: everybody may call
  std::string cache_secret_file;  // empty: a new secret at every start
  std::string metrics_compat;     // "vllm": its names too
  double slo_ttft_ms = 2000;      // 0: no target
  double slo_tpot_ms = 100;
  std::string price_file;        // empty: no money is counted
  std::string api_prices;        // file; empty: nothing to compare with
  std::string usage_dir;         // empty: no usage log
  std::string admin_listen;      // host:port; empty: no admin API
  std::string admin_token_file;  // empty: none is asked for
  int heartbeat_ms = 250;
  int heartbeats_missed_max = 4;
  double drain_seconds = 30;
  std::string ready_file;
  int status_fd = -1;
  int control_fd = -1;
  bool exit_on_load_failure = false;
  std::string log_level = "info";
  std::string log_format = "text";
  std::string audit_log = "log";
};

// Nothing when the program should go on; otherwise the exit code (help and version were printed, or
// the error was).
std::optional<int> ParseCoordinatorOptions(int argc, char** argv, CoordinatorOptions& options);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_OPTIONS_H_
