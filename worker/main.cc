// tessera-worker: one rank of a tensor-parallel group. Reads flags, wires the parts together, runs
// the service on the main thread. Exit codes: 0 told to leave, 1 cannot go on (the reason is on
// stderr), others from the flag parser.

#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "base/version.h"
#include "models/model_directory.h"
#include "worker/device.h"
#include "worker/event_log.h"
#include "worker/probe.h"
#include "worker/service.h"
#include "worker/signals.h"

namespace {

// After SIGTERM the process is gone within two seconds, whatever it was doing.
constexpr absl::Duration kLeaveWithin = absl::Milliseconds(1800);

struct Flags {
  tessera::ServiceOptions service;
  std::string device = "auto";
  int threads = 1;
  double reconnect_seconds = 60;
  std::string log_level = "info";
  std::string log_format = "text";
  bool probe = false;
};

void Declare(CLI::App& app, Flags& flags) {
  app.set_version_flag("--version", tessera::kVersion);
  app.add_option("--coordinator", flags.service.coordinator_address,
                 "host:port of the coordinator (its --listen address)")
      ->type_name("HOST:PORT");
  app.add_option(
         "--model-root", flags.service.model_roots,
         "where models are: the model's own directory, the folder that holds it, or a Hugging Face "
         "cache; may be given several times. Default: here, and the Hugging Face cache if there is "
         "one")
      ->type_name("DIR")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  app.add_option(
         "--device", flags.device,
         "what to compute on: cpu, cuda:N for GPU N, or auto: the first GPU if this build and this "
         "machine have one, else cpu")
      ->type_name("DEVICE")
      ->capture_default_str();
  app.add_option(
         "--threads", flags.threads,
         "CPU threads of this rank; default: every core it may use. Ranks that share a machine "
         "should share its cores")
      ->check(CLI::Range(1, tessera::kDeviceThreadsMax));
  app.add_option("--name", flags.service.worker_name,
                 "how logs and metrics call this worker; default: host:pid")
      ->type_name("NAME");
  app.add_option("--reconnect-seconds", flags.reconnect_seconds,
                 "how long to dial a coordinator that does not answer before giving up")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app.add_option("--log-level", flags.log_level, "what goes to stderr: debug, info, warn or error")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->capture_default_str();
  app.add_option("--log-format", flags.log_format, "lines of text, or JSON objects: text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_flag("--probe", flags.probe, "print what this machine has, as JSON, and exit");
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "tessera-worker: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
               std::string(status.message()).c_str());
  return 1;
}

int Run(Flags& flags, const tessera::MachineFacts& facts) {
  tessera::ServiceOptions& options = flags.service;
  if (options.worker_name.empty())
    options.worker_name = absl::StrCat(facts.host_name, ":", getpid());
  options.reconnect = absl::Seconds(flags.reconnect_seconds);
  tessera::EventLog log(options.worker_name, spdlog::level::from_str(flags.log_level),
                        flags.log_format == "json");
  const tessera::RealClock clock;
  // The watcher must exist before any thread; what it stops comes later.
  absl::Mutex mutex;
  tessera::Service* service = nullptr;
  std::string early_signal;
  const tessera::SignalWatcher watcher(
      [&](std::string name) {
        absl::MutexLock lock(&mutex);
        if (service == nullptr) {
          early_signal = name;
        } else {
          service->RequestStop(name);
        }
      },
      kLeaveWithin);
  absl::StatusOr<std::unique_ptr<tessera::Device>> device =
      tessera::Device::Open(flags.device, flags.threads);
  if (!device.ok()) return Fail(device.status());
  tessera::Service running(options, **device, clock, log);
  {
    absl::MutexLock lock(&mutex);
    service = &running;
    if (!early_signal.empty()) running.RequestStop(early_signal);
  }
  const absl::Status status = running.Run();
  {
    absl::MutexLock lock(&mutex);
    service = nullptr;
  }
  return status.ok() ? 0 : Fail(status);
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  const tessera::MachineFacts facts = tessera::ProbeMachine();
  flags.threads = tessera::DefaultThreads(facts.cpu);
  CLI::App app(
      "tessera-worker - one rank of a Tessera group.\n"
      "Dials the coordinator, loads its shard of the model the coordinator names, and computes "
      "steps\n"
      "until it is told to stop. Start one per rank, on any machine that has the model's files.");
  Declare(app, flags);
  CLI11_PARSE(app, argc, argv);
  if (flags.probe) {
    std::printf("%s\n", tessera::MachineFactsJson(facts).c_str());
    return 0;
  }
  if (app.count("--model-root") == 0) {
    const std::string cache =
        tessera::HubCache([](const char* name) { return getenv(name); }).string();
    std::error_code ignored;
    if (std::filesystem::is_directory(cache, ignored)) flags.service.model_roots.push_back(cache);
  }
  if (flags.service.coordinator_address.empty()) {
    return Fail(absl::InvalidArgumentError(
        "--coordinator HOST:PORT is required: the --listen address of tessera-coordinator"));
  }
  return Run(flags, facts);
}
