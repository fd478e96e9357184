// Turns notices of the cluster into logs, JSON status lines (for `tessera serve`'s screen) and the
// facts main waits for: every group is ready, one cannot be loaded, one is lost for good. Called on
// any thread.

#ifndef TESSERA_COORDINATOR_STATUS_BOARD_H_
#define TESSERA_COORDINATOR_STATUS_BOARD_H_

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/cluster/notice.h"
#include "coordinator/lost_groups.h"
#include "coordinator/telemetry/metrics.h"

namespace tessera {

class StatusBoard {
 public:
  // `status_fd` -1: no status lines. `ranks` per group, for the rank metrics.
  StatusBoard(std::vector<std::string> model_names, int ranks, int status_fd, Metrics& metrics);
  ~StatusBoard();
  StatusBoard(const StatusBoard&) = delete;
  StatusBoard& operator=(const StatusBoard&) = delete;

  void Tell(const Notice& notice) ABSL_LOCKS_EXCLUDED(mutex_);
  // One more status line, already JSON, e.g. the addresses.
  void WriteLine(const std::string& json) ABSL_LOCKS_EXCLUDED(mutex_);

  // A worker that the launcher does not start again.
  void OnWorkerGone(const WorkerGone& gone) ABSL_LOCKS_EXCLUDED(mutex_);
  // Groups that are lost for good, or back, since the last call.
  std::vector<LostGroups::Change> TakeLosses() ABSL_LOCKS_EXCLUDED(mutex_);

  // Becomes readable whenever AllReady, LoadFailure or TakeLosses may have changed; read it empty.
  int wake_fd() const { return wake_fd_; }
  bool AllReady() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The last reason for which a group could not be loaded; OK if there was none.
  absl::Status LoadFailure() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Log(const Notice& notice) const;

  const std::vector<std::string> model_names_;
  const int ranks_;
  const int status_fd_;
  const int wake_fd_;
  Metrics& metrics_;
  mutable absl::Mutex mutex_;
  std::vector<bool> ready_ ABSL_GUARDED_BY(mutex_);  // by group
  absl::Status load_failure_ ABSL_GUARDED_BY(mutex_);
  LostGroups lost_groups_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_STATUS_BOARD_H_
