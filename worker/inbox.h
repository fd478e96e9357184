// What the coordinator and the operating system want of this rank, in order. The link's reader and
// the signal watcher post from their threads; the rank's thread takes. Stale messages are dropped
// here, so that nobody behind it has to think about terms and epochs: only the highest ones seen
// are obeyed.
//
// Whatever the rank's thread is doing, every message but CommPeers means that it should stop doing
// it. Work that can take long asks interrupted(), or leaves a callback that wakes it.

#ifndef TESSERA_WORKER_INBOX_H_
#define TESSERA_WORKER_INBOX_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tessera/cluster/v1/cluster.pb.h"

namespace tessera {

// The control stream has ended with this status.
struct LinkLost {
  absl::Status status;
};

// The process should leave (a signal).
struct StopRequested {
  std::string reason;
};

using RankEvent = std::variant<cluster::v1::Assign, cluster::v1::CommPeers, cluster::v1::Unassign,
                               cluster::v1::Shutdown, LinkLost, StopRequested>;

class Inbox {
 public:
  // Events that wait to be taken; a coordinator that sends more has lost its mind and the link is
  // dropped.
  static constexpr size_t kEventsMax = 256;

  // A new control stream begins: epochs start over, what the old one said is forgotten (a stop is
  // not). FAILED_PRECONDITION when the coordinator's term is older than one this rank has obeyed.
  absl::Status BeginJoin(uint64_t term) ABSL_LOCKS_EXCLUDED(mutex_);

  // INVALID_ARGUMENT for a message that has no place after Welcome, RESOURCE_EXHAUSTED for too
  // many. A stale one is dropped: OK.
  absl::Status Post(const cluster::v1::CoordinatorMessage& message) ABSL_LOCKS_EXCLUDED(mutex_);
  void PostLinkLost(absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);
  void PostStop(std::string reason) ABSL_LOCKS_EXCLUDED(mutex_);

  // The oldest event, or nothing at the deadline.
  std::optional<RankEvent> Take(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  // The CommPeers of the current epoch. CANCELLED when something else came first (it stays in the
  // inbox), DEADLINE_EXCEEDED.
  absl::StatusOr<cluster::v1::CommPeers> TakePeers(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);

  // Something waits that ends the present work.
  bool interrupted() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool stop_requested() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Sleeps until the deadline; returns early, true, when interrupted.
  bool SleepUnlessInterrupted(absl::Time deadline) const ABSL_LOCKS_EXCLUDED(mutex_);

  // While it lives, `wake` is called (once, from the posting thread or at once from this one) when
  // work is to be interrupted. `wake` must not touch the inbox.
  class WakeScope {
   public:
    WakeScope(Inbox& inbox, std::function<void()> wake);
    ~WakeScope();
    WakeScope(const WakeScope&) = delete;
    WakeScope& operator=(const WakeScope&) = delete;

   private:
    Inbox& inbox_;
  };

 private:
  bool Interrupted() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool Stale(const cluster::v1::CoordinatorMessage& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Push(RankEvent event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::deque<RankEvent> events_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> wake_ ABSL_GUARDED_BY(mutex_);
  uint64_t term_ ABSL_GUARDED_BY(mutex_) = 0;   // highest obeyed
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;  // highest of this stream
};

}  // namespace tessera

#endif  // TESSERA_WORKER_INBOX_H_
