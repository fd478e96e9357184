// See the header.

#include "cli/launcher.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/child_process.h"
#include "models/model_directory.h"

namespace tessera {
namespace {

// How long workers may take to leave once the coordinator is gone.
constexpr auto kWorkerExitLimit = std::chrono::seconds(3);

std::string WorkerName(int index) { return absl::StrCat("local-", index); }

}  // namespace

Launcher::Launcher(const ServeOptions& options, ServeScreen& screen)
    : options_(options),
      screen_(screen),
      worker_count_((options.comm == "solo" ? 1 : options.tp) *
                    static_cast<int>(options.models.size())),
      restarts_(static_cast<size_t>(worker_count_)) {
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal_number : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&signals, signal_number);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signal_fd_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

Launcher::~Launcher() {
  const auto limit = std::chrono::steady_clock::now() + kWorkerExitLimit;
  while (!workers_.empty() && std::chrono::steady_clock::now() < limit) {
    ReapChildren();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  if (coordinator_ > 0) kill(coordinator_, SIGKILL);
  for (const auto& [pid, index] : workers_) kill(pid, SIGKILL);
  if (coordinator_ > 0) waitpid(coordinator_, nullptr, 0);
  for (const auto& [pid, index] : workers_) waitpid(pid, nullptr, 0);
  // A coordinator that was killed could not remove it.
  if (!options_.ready_file.empty()) unlink(options_.ready_file.c_str());
  for (const int fd : {status_fd_, control_fd_, signal_fd_}) {
    if (fd >= 0) close(fd);
  }
}

int Launcher::Run() {
  const absl::Status started = StartCoordinator();
  if (!started.ok()) {
    screen_.Error(std::string(started.message()));
    return 1;
  }
  while (coordinator_ > 0) {
    pollfd waits[2] = {{signal_fd_, POLLIN, 0}, {status_fd_, POLLIN, 0}};
    poll(waits, status_fd_ >= 0 ? 2 : 1, -1);
    if (status_fd_ >= 0 && waits[1].revents != 0) ReadStatusLines();
    signalfd_siginfo info;
    while (read(signal_fd_, &info, sizeof(info)) == sizeof(info)) {
      OnSignal(static_cast<int>(info.ssi_signo));
    }
  }
  return failed_ ? 1 : 0;
}

absl::Status Launcher::StartCoordinator() {
  for (const std::string& model : options_.models) {
    TESSERA_ASSIGN_OR_RETURN(
        const ModelDirectory found,
        FindModel(model, HubCache([](const char* name) { return getenv(name); })));
    model_roots_.insert(found.directory.string());
  }
  TESSERA_ASSIGN_OR_RETURN(coordinator_program_, SiblingProgram("tessera-coordinator"));
  TESSERA_ASSIGN_OR_RETURN(worker_program_, SiblingProgram("tessera-worker"));
  int status[2];
  int control[2];
  if (pipe2(status, O_CLOEXEC) != 0) return absl::InternalError("pipe");
  status_fd_ = status[0];
  fcntl(status_fd_, F_SETFL, O_NONBLOCK);
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) != 0) {
    close(status[1]);
    return absl::InternalError("socketpair");
  }
  control_fd_ = control[0];

  std::vector<std::string> argv = {coordinator_program_,
                                   "--listen",
                                   "127.0.0.1:0",
                                   "--tp",
                                   absl::StrCat(options_.tp),
                                   "--comm",
                                   options_.comm,
                                   "--status-fd",
                                   absl::StrCat(status[1]),
                                   "--control-fd",
                                   absl::StrCat(control[1]),
                                   "--exit-on-load-failure"};
  if (!options_.verbose) argv.insert(argv.end(), {"--log-level", "warn"});
  for (const std::string& model : options_.models) argv.insert(argv.end(), {"--model", model});
  for (const std::string& file : options_.chat_templates) {
    argv.insert(argv.end(), {"--chat-template", file});
  }
  if (!options_.ready_file.empty()) {
    argv.insert(argv.end(), {"--ready-file", options_.ready_file});
  }
  if (options_.reflection) argv.push_back("--reflection");
  if (!options_.console_flag.empty()) argv.push_back(options_.console_flag);
  if (options_.no_prefix_cache) argv.push_back("--no-prefix-cache");
  if (options_.eager) argv.push_back("--eager");
  if (options_.deterministic) argv.push_back("--deterministic");
  for (const auto& [flag, value] : options_.coordinator_flags) {
    if (!value.empty()) argv.insert(argv.end(), {flag, value});
  }
  const absl::StatusOr<pid_t> started = StartProcess(argv, {status[1], control[1]});
  close(status[1]);
  close(control[1]);
  TESSERA_RETURN_IF_ERROR(started.status());
  coordinator_ = *started;
  return absl::OkStatus();
}

absl::Status Launcher::StartWorkers(const std::string& address) {
  workers_address_ = address;
  for (int index = 0; index < worker_count_; ++index) {
    TESSERA_RETURN_IF_ERROR(StartWorker(index));
  }
  return absl::OkStatus();
}

absl::Status Launcher::StartWorker(int index) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int threads = options_.threads > 0 ? options_.threads : std::max(1, cores / worker_count_);
  std::vector<std::string> argv = {worker_program_,
                                   "--coordinator",
                                   workers_address_,
                                   "--device",
                                   options_.device,
                                   "--threads",
                                   absl::StrCat(threads),
                                   "--name",
                                   WorkerName(index),
                                   "--log-level",
                                   options_.verbose ? "info" : "warn"};
  for (const std::string& root : model_roots_) argv.insert(argv.end(), {"--model-root", root});
  TESSERA_ASSIGN_OR_RETURN(const pid_t pid, StartProcess(argv));
  workers_[pid] = index;
  return absl::OkStatus();
}

void Launcher::ReadStatusLines() {
  char buffer[4096];
  ssize_t n = 0;
  while ((n = read(status_fd_, buffer, sizeof(buffer))) > 0) {
    pending_.append(buffer, static_cast<size_t>(n));
  }
  if (n == 0) {  // the coordinator has closed its end: it is about to exit
    close(status_fd_);
    status_fd_ = -1;
  }
  size_t end = 0;
  while ((end = pending_.find('\n')) != std::string::npos) {
    OnStatusLine(pending_.substr(0, end));
    pending_.erase(0, end + 1);
  }
}

void Launcher::OnStatusLine(const std::string& text) {
  const nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
  if (!line.is_object()) return;
  const std::string event = line.value("event", "");
  if (event == "listening") {
    const absl::Status started = StartWorkers(line.value("workers", ""));
    if (!started.ok()) Fail(std::string(started.message()));
  } else if (event == "model") {
    screen_.Model(line.value("model", ""), line.value("architecture", ""),
                  line.value("directory", ""), line.value("license", ""));
  } else if (event == "plan") {
    screen_.Plan(line.value("model", ""), line.value("text", ""));
  } else if (event == "loading") {
    screen_.Loading(line.value("group", 0), line.value("rank", 0),
                    line.value("bytes_read", uint64_t{0}), line.value("bytes_total", uint64_t{0}),
                    line.value("seconds", 0.0));
  } else if (event == "accepting") {
    accepting_ = true;
    if (line.contains("admin")) {
      screen_.Note(absl::StrCat("Admin API http://", line.value("admin", ""),
                                "  /usage /prices /comparison /groups"));
    }
    screen_.Ready(line.value("http", ""), line.value("grpc", ""), line.value("health", ""),
                  line.value("console", ""));
  } else if (event == "lost") {
    screen_.Note(absl::StrCat("model ", line.value("model", ""),
                              " lost its group: ", line.value("error", "")));
  } else if (event == "joined") {
    OnWorkerJoined(line.value("worker", ""));
  } else if (event == "left") {
    OnWorkerGivenUp(line.value("worker", ""));
  } else if (event == "given_up") {
    OnModelLost(line.value("model", ""), line.value("error", ""));
  } else if (event == "ready" && accepting_) {
    lost_models_.erase(line.value("model", ""));
    screen_.Note(absl::StrCat("model ", line.value("model", ""), " is ready again"));
  }
}

void Launcher::OnSignal(int signal_number) {
  if (signal_number == SIGCHLD) {
    ReapChildren();
  } else {
    if (!stopping_) screen_.Note("stopping: open requests may finish, Ctrl-C again ends them");
    BeginStop();
  }
}

void Launcher::ReapChildren() {
  int status = 0;
  pid_t pid = 0;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid == coordinator_) {
      if (status_fd_ >= 0) ReadStatusLines();
      coordinator_ = 0;
      const bool clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
      if (!clean && !failed_) {
        failed_ = true;
        screen_.Error(absl::StrCat("the coordinator ", DescribeExit(status)));
      }
      continue;
    }
    const auto worker = workers_.find(pid);
    if (worker == workers_.end()) continue;
    const int index = worker->second;
    workers_.erase(worker);
    joined_.erase(pid);
    OnWorkerExit(index, status);
  }
}

void Launcher::OnWorkerExit(int index, int wait_status) {
  if (stopping_ || coordinator_ == 0) return;
  const std::string how = DescribeExit(wait_status);
  const std::string what = absl::StrCat("worker ", WorkerName(index), " ", how);
  if (!accepting_) {
    // Sent home by a coordinator that gives up and will say why itself.
    if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0) return;
    // A start that fails is not tried again: the worker has said why on stderr.
    Fail(what);
    return;
  }
  auto& restarts = restarts_[static_cast<size_t>(index)];
  const auto now = std::chrono::steady_clock::now();
  std::erase_if(restarts, [now](auto when) { return now - when > kWorkerRestartWindow; });
  if (restarts.size() >= kWorkerRestartsMax) {
    return LeaveWorker(index, absl::StrCat(how, ", after ", restarts.size(), " restarts within ",
                                           kWorkerRestartWindow.count(), " minutes"));
  }
  restarts.push_back(now);
  screen_.Note(absl::StrCat(what, "; starting it again"));
  const absl::Status started = StartWorker(index);
  if (!started.ok()) {
    LeaveWorker(index, absl::StrCat(how, " and cannot be started again: ", started.message()));
  }
}

void Launcher::LeaveWorker(int index, const std::string& reason) {
  screen_.Error(
      absl::StrCat("worker ", WorkerName(index), " ", reason, "; it is not started again"));
  const nlohmann::json gone = {
      {"event", "gone"}, {"worker", WorkerName(index)}, {"reason", reason}};
  const std::string line = gone.dump() + "\n";
  // A few lines at most ever, so they always fit; a coordinator that went away ends the loop.
  const ssize_t sent = send(control_fd_, line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent != std::ssize(line)) Fail("the coordinator cannot be told of a lost worker");
}

void Launcher::OnModelLost(const std::string& model, const std::string& reason) {
  lost_models_.insert(model);
  const std::string what = absl::StrCat("model ", model, " is lost: ", reason);
  if (lost_models_.size() == options_.models.size()) return Fail(what);
  screen_.Error(absl::StrCat(what, "; the other models go on"));
}

void Launcher::OnWorkerJoined(const std::string& name) {
  for (const auto& [pid, index] : workers_) {
    if (WorkerName(index) == name) joined_.insert(pid);
  }
}

void Launcher::OnWorkerGivenUp(const std::string& name) {
  if (!accepting_ || stopping_) return;
  for (const auto& [pid, index] : workers_) {
    if (WorkerName(index) == name && joined_.contains(pid)) kill(pid, SIGKILL);
  }
}

void Launcher::Fail(const std::string& reason) {
  if (!failed_) screen_.Error(reason);
  failed_ = true;
  BeginStop();
}

void Launcher::BeginStop() {
  stopping_ = true;
  if (coordinator_ > 0) kill(coordinator_, SIGTERM);
}

}  // namespace tessera
