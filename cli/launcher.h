// The processes behind `tessera serve`: one coordinator, tp workers per model, one pipe of status
// lines, one loop over signals and lines. Single-threaded.

#ifndef TESSERA_CLI_LAUNCHER_H_
#define TESSERA_CLI_LAUNCHER_H_

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/serve.h"
#include "cli/serve_screen.h"

namespace tessera {

// A worker that dies more often than this within the window is not started again; the launcher
// gives up.
inline constexpr size_t kWorkerRestartsMax = 5;
inline constexpr std::chrono::minutes kWorkerRestartWindow(10);

class Launcher {
 public:
  Launcher(const ServeOptions& options, ServeScreen& screen);
  ~Launcher();  // nothing it started is left running
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  // Starts everything and stays until it is over; the exit code.
  int Run();

 private:
  absl::Status StartCoordinator();
  absl::Status StartWorkers(const std::string& address);
  absl::Status StartWorker(int index);
  void ReadStatusLines();
  void OnStatusLine(const std::string& line);
  void OnSignal(int signal_number);
  void ReapChildren();
  void OnWorkerExit(int index, int wait_status);
  // The coordinator has given a worker up: one that hangs is ended, so that it can be started
  // again.
  void OnWorkerGivenUp(const std::string& name);
  void Fail(const std::string& reason);
  // SIGTERM to the coordinator, which drains and sends the workers home; again: at once.
  void BeginStop();

  const ServeOptions& options_;
  ServeScreen& screen_;
  const int worker_count_;
  int signal_fd_ = -1;
  int status_fd_ = -1;  // our end of the pipe
  std::string coordinator_program_;
  std::string worker_program_;
  std::string workers_address_;
  std::string pending_;  // part of a status line
  pid_t coordinator_ = 0;
  std::map<pid_t, int> workers_;  // pid -> index
  // Recent restarts by worker index.
  std::vector<std::vector<std::chrono::steady_clock::time_point>> restarts_;
  bool accepting_ = false;
  bool stopping_ = false;
  bool failed_ = false;
};

}  // namespace tessera

#endif  // TESSERA_CLI_LAUNCHER_H_
