// The durable record of what was used: one line of JSON per finished request, in files of a
// directory that is this process's alone (usage_files.h). Append never waits for the disk: a thread
// of its own writes and syncs what has come, several times a second. A crash loses what was not
// synced yet (UsageLogOptions::sync_interval); a line that it cut short is taken off at the next
// start.
//
// While the disk is full or hangs, entries wait in a queue of bounded length; beyond it they are
// merged into one summary per tenant, model and end, so that no token, second or money is lost,
// only which request it was. That is counted and logged.

#ifndef TESSERA_COORDINATOR_LEDGER_USAGE_LOG_H_
#define TESSERA_COORDINATOR_LEDGER_USAGE_LOG_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/ledger/usage_entry.h"
#include "coordinator/ledger/usage_files.h"

namespace tessera {

inline constexpr size_t kUsageQueueMax = 16'384;    // entries that wait for the disk
inline constexpr size_t kUsageSummariesMax = 4096;  // beyond it tenants are merged too

// The system calls that can fail, for tests.
struct UsageFileCalls {
  std::function<ssize_t(int fd, const void* bytes, size_t count, off_t offset)> write;  // pwrite
  std::function<int(int fd)> sync;                                                      // fdatasync
};

struct UsageLogOptions {
  std::string dir;  // made where it is not there; its parent must be
  std::string run;  // prefix of entry ids: different at every start
  uint64_t file_bytes_max = uint64_t{64} << 20;
  size_t queue_max = kUsageQueueMax;
  absl::Duration sync_interval = absl::Milliseconds(100);
  absl::Duration retry_interval = absl::Seconds(1);  // after a write that failed
  UsageFileCalls calls = {};                         // unset: the real ones
};

struct UsageLogStats {
  uint64_t written = 0;    // entries that are on the disk
  uint64_t merged = 0;     // requests that have no entry of their own
  uint64_t waiting = 0;    // entries that are not on the disk yet
  std::string error = {};  // why nothing can be written now; empty: it can
};

class UsageLog {
 public:
  // Takes the directory for itself and goes on after its last entry. FAILED_PRECONDITION: another
  // process has it. The clock must outlive the log; it is asked for the day.
  static absl::StatusOr<std::unique_ptr<UsageLog>> Open(UsageLogOptions options,
                                                        const Clock& clock);
  ~UsageLog();
  UsageLog(const UsageLog&) = delete;
  UsageLog& operator=(const UsageLog&) = delete;

  // Any thread; does not wait for the disk. Gives the entry its id.
  void Append(UsageEntry entry) ABSL_LOCKS_EXCLUDED(mutex_);
  // True once everything that was appended before is on the disk, false after `limit`.
  bool Flush(absl::Duration limit) ABSL_LOCKS_EXCLUDED(mutex_);
  // Writes what waits, at most for `limit`, and ends the thread. DATA_LOSS says how much was not
  // written. A second call does nothing.
  absl::Status Close(absl::Duration limit) ABSL_LOCKS_EXCLUDED(mutex_);

  UsageLogStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);
  const std::string& dir() const { return options_.dir; }

 private:
  UsageLog(UsageLogOptions options, const Clock& clock, int lock_fd);

  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  bool TakeBatch(std::vector<UsageEntry>* batch) ABSL_LOCKS_EXCLUDED(mutex_);
  // False when the log is to end.
  bool Pause(absl::Duration time) ABSL_LOCKS_EXCLUDED(mutex_);
  void Settle(const absl::Status& status, size_t entries) ABSL_LOCKS_EXCLUDED(mutex_);
  void Merge(UsageEntry entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Of the writer's thread, and of Open before there is one.
  absl::Status Resume();
  absl::Status OpenFile();
  absl::Status WriteAndSync(const std::string& bytes);
  void CloseFile();
  std::string PathOf(const UsageFileName& name) const;

  const UsageLogOptions options_;
  const Clock& clock_;
  const int lock_fd_;  // held while this lives

  // The writer's.
  UsageFileName file_;      // the last one there is, or none
  int fd_ = -1;             // of it, when it is open
  uint64_t file_size_ = 0;  // bytes that are whole and synced
  bool dirty_ = false;      // bytes behind file_size_ may have been written

  mutable absl::Mutex mutex_;
  std::deque<UsageEntry> queue_ ABSL_GUARDED_BY(mutex_);
  std::map<std::vector<std::string>, UsageEntry> summaries_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_entry_ ABSL_GUARDED_BY(mutex_) = 1;
  UsageLogStats stats_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time close_limit_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();

  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_USAGE_LOG_H_
