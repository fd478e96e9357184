// tessera-coordinator: puts the rooms together, waits, and takes them apart again. The only place
// that knows everyone. Main's thread handles signals; everything else runs on the threads of the
// parts.

#include <poll.h>
#include <signal.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/json_log.h"
#include "base/status.h"
#include "base/version.h"
#include "coordinator/api/api_server.h"
#include "coordinator/api/audit.h"
#include "coordinator/cluster/cluster.h"
#include "coordinator/engine/engine.h"
#include "coordinator/launcher_link.h"
#include "coordinator/model_setup.h"
#include "coordinator/options.h"
#include "coordinator/status_board.h"
#include "coordinator/telemetry/metrics.h"
#include "coordinator/tenant_setup.h"
#include "coordinator/usage_setup.h"

namespace tessera {
namespace {

constexpr absl::Duration kWorkerExitLimit = absl::Seconds(3);
constexpr int kReloadPollMs = 1000;

// SIGINT, SIGTERM and SIGHUP as a file descriptor. Made before any thread, so that all of them
// inherit the mask.
int BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGHUP);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

// The next signal that has come, 0 for none.
int TakeSignal(int signal_fd) {
  signalfd_siginfo info;
  return read(signal_fd, &info, sizeof(info)) == sizeof(info) ? static_cast<int>(info.ssi_signo)
                                                              : 0;
}

// The term grows from start to start, also across restarts.
uint64_t NewTerm(const Clock& clock) {
  return static_cast<uint64_t>(absl::ToUnixMillis(clock.Now()));
}

absl::Status WriteReadyFile(const std::string& path, const std::string& json) {
  const std::string temporary = absl::StrCat(path, ".tmp", getpid());
  std::ofstream out(temporary);
  out << json << "\n";
  out.close();
  if (!out || std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::InternalError(
        absl::StrCat("cannot write --ready-file ", path, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

// For whoever started this program: what is served, from where, under which licence.
void AnnounceModels(const ModelSetup& setup, StatusBoard& board) {
  for (const ServedModel& model : setup.served) {
    const nlohmann::json line = {{"event", "model"},
                                 {"model", model.name},
                                 {"architecture", model.spec.architecture},
                                 {"directory", model.directory},
                                 {"license", model.license}};
    board.WriteLine(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
}

SchedulerOptions ToSchedulerOptions(const CoordinatorOptions& options, const ModelSetup& setup,
                                    uint64_t term) {
  SchedulerOptions scheduler;
  scheduler.term = term;
  scheduler.block_size = setup.targets.front().memory.block_size;
  scheduler.tokens_max = options.tokens_max;
  scheduler.rows_max = options.rows_max;
  scheduler.chunk_max = options.chunk_max;
  scheduler.waiting_max = options.waiting_max;
  scheduler.plans_in_flight_max = options.plans_in_flight;
  scheduler.prefix_cache = !options.no_prefix_cache;
  if (options.inter_token_target_ms > 0) {
    scheduler.inter_token_target = absl::Milliseconds(options.inter_token_target_ms);
  }
  scheduler.priority_ageing = absl::Seconds(options.priority_ageing_seconds);
  scheduler.models = setup.scheduled;
  return scheduler;
}

WaitingLimits ToWaitingLimits(const CoordinatorOptions& options) {
  return {.requests_max = options.waiting_max,
          .tokens_max = options.waiting_tokens_max,
          .bytes_max = static_cast<int64_t>(options.waiting_bytes_max)};
}

ApiOptions ToApiOptions(const CoordinatorOptions& options, Tenants& tenants,
                        const UsageSetup& usage, api::AuditLog& audit, const Clock& clock) {
  ApiOptions api;
  api.audit = &audit;
  api.authenticate = [&tenants, &clock](std::string_view api_key) {
    return tenants.Identify(api_key, clock.Now());
  };
  api.limits = &tenants.limits();
  api.pricing = &usage.pricing();
  api.http_address = absl::StrCat(options.host, ":", options.http_port);
  api.grpc_address = absl::StrCat(options.host, ":", options.grpc_port);
  api.health_address = absl::StrCat(options.host, ":", options.health_port);
  api.reflection = options.reflection;
  api.console = options.console;
  api.version = kVersion;
  return api;
}

// Hears the launcher, and ends what waits for models that are lost for good. Without a launcher
// other workers may come at any time, and nothing is ever lost for good.
void FollowLosses(LauncherLink& launcher, const std::vector<std::string>& models,
                  StatusBoard& board, ApiServer& api) {
  for (const WorkerGone& gone : launcher.Take()) board.OnWorkerGone(gone);
  for (const LostGroups::Change& change : board.TakeLosses()) {
    const std::string& model = models.at(change.group);  // a model has one group, of its index
    if (change.reason.ok()) {
      api.RegainModel(change.group);
      continue;
    }
    const std::string reason(change.reason.message());
    spdlog::error("model {}: group {} is lost for good: {}", model, change.group, reason);
    api.LoseModel(change.group, change.reason);
    const nlohmann::json line = {
        {"event", "given_up"}, {"group", change.group}, {"model", model}, {"error", reason}};
    board.WriteLine(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
}

// Waits for a signal to end (ok) or, when asked to, for a model that cannot be loaded (its status).
// On the way, announces the addresses once every model can take requests, and keeps the tenants and
// the models that are lost up to date.
absl::Status Serve(const CoordinatorOptions& options, int signal_fd,
                   const std::vector<std::string>& models, StatusBoard& board, ApiServer& api,
                   nlohmann::json addresses, TenantSetup& tenants, UsageSetup& usage,
                   Engine& engine) {
  const bool has_files = tenants.has_key_file() || usage.has_files();
  const int idle_ms = has_files ? kReloadPollMs : -1;
  const bool has_launcher = options.control_fd >= 0;
  LauncherLink launcher(options.control_fd);
  bool announced = false;
  while (true) {
    std::vector<pollfd> waits = {
        {signal_fd, POLLIN, 0}, {board.wake_fd(), POLLIN, 0}, {launcher.fd(), POLLIN, 0}};
    // All groups are ready but the doors have not seen it yet: look again soon.
    const int timeout_ms = !announced && board.AllReady() ? 10 : idle_ms;
    if (poll(waits.data(), waits.size(), timeout_ms) < 0 && errno != EINTR) {
      return absl::InternalError(absl::StrCat("poll: ", std::strerror(errno)));
    }
    eventfd_t count = 0;
    eventfd_read(board.wake_fd(), &count);
    const int signal_number = TakeSignal(signal_fd);
    const bool reload = signal_number == SIGHUP && has_files;
    if (signal_number != 0 && !reload) return absl::OkStatus();
    tenants.Reload(engine, /*forced=*/reload);
    usage.Reload(/*forced=*/reload);
    // Later than at the start a load that fails costs its model alone, see FollowLosses.
    const bool exits = options.exit_on_load_failure && !(announced && has_launcher);
    if (exits && !board.LoadFailure().ok()) return board.LoadFailure();
    if (has_launcher) FollowLosses(launcher, models, board, api);
    if (!announced && board.AllReady() && api.Ready()) {
      announced = true;
      if (!options.ready_file.empty()) {
        TESSERA_RETURN_IF_ERROR(WriteReadyFile(options.ready_file, addresses.dump()));
      }
      addresses["event"] = "accepting";
      board.WriteLine(addresses.dump());
      spdlog::info("accepting requests");
    }
  }
}

// Lets open requests finish, at most options.drain_seconds or until a second signal.
void Drain(const CoordinatorOptions& options, int signal_fd, ApiServer& api, Engine& engine,
           const Clock& clock) {
  const absl::Time limit = clock.Now() + absl::Seconds(options.drain_seconds);
  spdlog::info("draining: at most {:.0f} s, a second signal ends it", options.drain_seconds);
  api.BeginDrain();
  engine.BeginDrain();
  while (!engine.WaitUntilIdle(absl::Milliseconds(100))) {
    if (clock.Now() >= limit || TakeSignal(signal_fd) != 0) {
      spdlog::warn("open requests are cut off");
      break;
    }
  }
}

MetricsOptions ToMetricsOptions(const CoordinatorOptions& options) {
  MetricsOptions metrics;
  metrics.slo.first_token_seconds = options.slo_ttft_ms * 1e-3;
  metrics.slo.token_seconds = options.slo_tpot_ms * 1e-3;
  metrics.vllm_names = options.metrics_compat == "vllm";
  return metrics;
}

void SetModelLimits(const CoordinatorOptions& options, const ModelSetup& setup, Metrics& metrics) {
  for (size_t i = 0; i < setup.targets.size(); ++i) {
    const int64_t block_tokens = setup.targets[i].memory.block_size;
    metrics.model(i).kv_block_tokens->Set(static_cast<double>(block_tokens));
    metrics.model(i).sequences_max->Set(static_cast<double>(options.rows_max));
  }
}

absl::Status Run(const CoordinatorOptions& options, int signal_fd) {
  TESSERA_ASSIGN_OR_RETURN(ModelSetup setup, OpenModels(options));
  std::vector<std::string> names;
  for (const ServedModel& model : setup.served) names.push_back(model.name);

  RealClock clock;
  Metrics metrics(names, ToMetricsOptions(options));
  SetModelLimits(options, setup, metrics);
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<TenantSetup> tenants,
                           TenantSetup::Open(options, metrics));
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<api::AuditLog> audit,
                           api::AuditLog::Open(options.audit_log));
  const int ranks = options.comm == "solo" ? 1 : options.tp;
  const uint64_t term = NewTerm(clock);
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<UsageSetup> usage,
                           UsageSetup::Open(options, absl::StrCat(absl::Hex(term)), names,
                                            static_cast<uint32_t>(ranks), *audit, clock, metrics));
  StatusBoard board(names, ranks, options.status_fd, metrics);
  GroupManagerOptions groups;
  groups.term = term;
  groups.heartbeat_interval = absl::Milliseconds(options.heartbeat_ms);
  groups.heartbeats_missed_max = options.heartbeats_missed_max;
  groups.models = setup.targets;
  AnnounceModels(setup, board);
  Cluster cluster(groups, clock, [&board, &usage](const Notice& notice) {
    usage->Tell(notice);
    board.Tell(notice);
  });
  Engine engine(ToSchedulerOptions(options, setup, groups.term), cluster, clock, metrics,
                ToWaitingLimits(options), Ledger(names, usage->Sinks()));
  ApiServer api(ToApiOptions(options, tenants->tenants(), *usage, *audit, clock), setup.served,
                engine, clock, metrics);

  engine.Start();
  tenants->Announce(engine);
  TESSERA_ASSIGN_OR_RETURN(const ApiAddresses doors, api.Start());
  TESSERA_ASSIGN_OR_RETURN(
      const std::string workers,
      cluster.Start(options.listen, [&engine](Event event) { engine.Post(std::move(event)); }));
  nlohmann::json addresses = {
      {"http", doors.http}, {"grpc", doors.grpc}, {"health", doors.health}, {"workers", workers}};
  if (!usage->admin_address().empty()) addresses["admin"] = usage->admin_address();
  if (!doors.console.empty()) addresses["console"] = doors.console;
  spdlog::info("HTTP {}, gRPC {}, health {}, workers {}", doors.http, doors.grpc, doors.health,
               workers);
  nlohmann::json line = addresses;
  line["event"] = "listening";
  board.WriteLine(line.dump());

  const absl::Status status =
      Serve(options, signal_fd, names, board, api, addresses, *tenants, *usage, engine);
  if (status.ok()) Drain(options, signal_fd, api, engine, clock);
  // First the engine: requests that are still open are told so while the doors can say it.
  engine.Stop();
  api.Stop();
  cluster.Stop(kWorkerExitLimit);
  usage->Close();
  if (!options.ready_file.empty()) unlink(options.ready_file.c_str());
  return status;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::CoordinatorOptions options;
  if (const auto exit_code = tessera::ParseCoordinatorOptions(argc, argv, options)) {
    return *exit_code;
  }
  spdlog::set_default_logger(spdlog::stderr_color_mt("coordinator"));
  if (options.log_format == "json") {
    spdlog::set_formatter(std::make_unique<tessera::JsonLogFormatter>());
  } else {
    spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %n: %v");
  }
  spdlog::set_level(spdlog::level::from_str(options.log_level));
  const int signal_fd = tessera::BlockSignals();
  if (signal_fd < 0) {
    std::perror("signalfd");
    return 1;
  }
  const absl::Status status = tessera::Run(options, signal_fd);
  if (!status.ok()) {
    spdlog::error("{}", std::string(status.message()));
    return 1;
  }
  return 0;
}
