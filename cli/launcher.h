// The processes behind `tessera serve`: one coordinator, tp workers per model, status lines from
// the coordinator and word of lost workers to it, one loop over signals and lines. Single-threaded.

#ifndef TESSERA_CLI_LAUNCHER_H_
#define TESSERA_CLI_LAUNCHER_H_

#include <sys/types.h>

#include <chrono>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/serve.h"
#include "cli/serve_screen.h"

namespace tessera {

// A worker that dies more often than this within the window is not started again. The coordinator
// says which model that costs; when it was the last one, the launcher gives up.
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
  // A worker is not started again: tells the coordinator, which tells what follows from that.
  void LeaveWorker(int index, const std::string& reason);
  // The coordinator has given a model up.
  void OnModelLost(const std::string& model, const std::string& reason);
  void OnWorkerJoined(const std::string& name);
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
  int status_fd_ = -1;   // our ends, of a pipe
  int control_fd_ = -1;  // and of a pair of sockets
  std::string coordinator_program_;
  std::string worker_program_;
  std::set<std::string> model_roots_;  // directories of the models
  std::string workers_address_;
  std::string pending_;  // part of a status line
  pid_t coordinator_ = 0;
  std::map<pid_t, int> workers_;  // pid -> index
  // Processes that the coordinator knows. Word of one that has died already comes when the next
  // one of its name runs, and is not about that.
  std::set<pid_t> joined_;
  // Recent restarts by worker index.
  std::vector<std::vector<std::chrono::steady_clock::time_point>> restarts_;
  std::set<std::string> lost_models_;
  bool accepting_ = false;
  bool stopping_ = false;
  bool failed_ = false;
};

}  // namespace tessera

#endif  // TESSERA_CLI_LAUNCHER_H_
