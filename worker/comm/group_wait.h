// How a rank of a shared-memory group waits for another: spin, sleep, notice that the group has
// failed, that the peer's process has ended, or that the deadline is over. The first failure of a
// group is written down in the segment, so that every rank reports the same culprit.

#ifndef TESSERA_WORKER_COMM_GROUP_WAIT_H_
#define TESSERA_WORKER_COMM_GROUP_WAIT_H_

#include <chrono>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/comm/futex_flag.h"
#include "worker/comm/peer_process.h"
#include "worker/comm/shared_segment.h"

namespace tessera {

enum class GroupFailure : uint32_t { kAborted = 1, kLeft = 2, kEnded = 3, kLate = 4 };

class GroupWait {
 public:
  // `segment` outlives this object. `peers`: the processes of all ranks, in rank order.
  GroupWait(SegmentHeader* header, int size, const std::vector<ProcessIdentity>& peers);

  void set_deadline(absl::Duration deadline) { deadline_ = deadline; }

  // Waits until `flag`, raised by rank `peer`, has reached `target`. What is there already counts,
  // even in a failed group.
  absl::Status For(FutexFlag& flag, uint32_t target, int peer);

  // OK while nothing has failed.
  absl::Status Alive() const;

  // Any thread. Marks the group failed on account of `rank`, unless it already is, and wakes
  // everybody.
  void Fail(GroupFailure what, int rank);

 private:
  bool Spin(const FutexFlag& flag, uint32_t target,
            std::chrono::steady_clock::time_point start) const;
  absl::Status Sleep(FutexFlag& flag, uint32_t target, int peer,
                     std::chrono::steady_clock::time_point start);

  SegmentHeader* const header_;
  const int size_;
  const std::chrono::nanoseconds spin_max_;
  std::chrono::nanoseconds spin_;  // of the next wait
  std::vector<std::unique_ptr<PeerProcess>> peers_;
  absl::Duration deadline_ = absl::Seconds(10);
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_GROUP_WAIT_H_
