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

// A worker that keeps dying is started again this often, then the launcher gives up.
inline constexpr int kWorkerRestartsMax = 5;

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
  std::vector<int> restarts_;     // by worker index
  bool accepting_ = false;
  bool stopping_ = false;
  bool failed_ = false;
};

}  // namespace tessera

#endif  // TESSERA_CLI_LAUNCHER_H_
