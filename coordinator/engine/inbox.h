// What waits for the engine thread. New requests are bounded in number, tokens and bytes: a place
// is taken at PushRequest and given back when the scheduler has let the request run or ended it, so
// that a full queue is refused before any work. Everything else is never refused: there are at most
// a few events per open request and group.
//
// Pushed to from any thread; WaitAndDrain and Settle belong to the engine thread.

#ifndef TESSERA_COORDINATOR_ENGINE_INBOX_H_
#define TESSERA_COORDINATOR_ENGINE_INBOX_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/engine/admission.h"
#include "coordinator/engine/request_stream.h"
#include "coordinator/sched/event.h"

namespace tessera {

struct InboxItem {
  Event event;
  std::shared_ptr<RequestStream> stream;  // of a NewRequest
};

class Inbox {
 public:
  // `limits` are for new requests here and what waits in the scheduler together.
  explicit Inbox(const WaitingLimits& limits) : limits_(limits) {}

  // Takes it unless the answer is a refusal.
  Refusal PushRequest(NewRequest request, std::shared_ptr<RequestStream> stream)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // What PushRequest would say to a request of no size.
  Refusal Check() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Requests here and in the scheduler that wait.
  int64_t waiting() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Dropped once closed.
  void Push(Event event) ABSL_LOCKS_EXCLUDED(mutex_);
  // Refuses requests from now on and tells the scheduler, in this order.
  void BeginDrain() ABSL_LOCKS_EXCLUDED(mutex_);
  // Refuses everything from now on and gives out what is left.
  std::vector<InboxItem> Close() ABSL_LOCKS_EXCLUDED(mutex_);

  // Everything in order of arrival; empty when nothing came for `limit` of real time.
  std::vector<InboxItem> WaitAndDrain(absl::Duration limit) ABSL_LOCKS_EXCLUDED(mutex_);
  // The scheduler has seen all that was drained; so many requests wait there, and requests of this
  // cost wait no longer.
  void Settle(int64_t waiting, RequestCost begun) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Refusal Judge(RequestCost cost) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool IsNotEmpty() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !items_.empty(); }

  const WaitingLimits limits_;
  mutable absl::Mutex mutex_;
  std::vector<InboxItem> items_ ABSL_GUARDED_BY(mutex_);
  int64_t num_requests_ ABSL_GUARDED_BY(mutex_) = 0;  // among items_
  int64_t num_drained_ ABSL_GUARDED_BY(mutex_) = 0;   // with the scheduler, not settled
  int64_t num_waiting_ ABSL_GUARDED_BY(mutex_) = 0;   // in the scheduler when it settled
  RequestCost cost_waiting_ ABSL_GUARDED_BY(mutex_);  // of all of these, until they run
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ENGINE_INBOX_H_
