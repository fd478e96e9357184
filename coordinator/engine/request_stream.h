// The outbox of one request, all its choices: the engine thread pushes updates in, one consumer (an
// HTTP or gRPC session) takes them out. Bounded by the request's own max_tokens x choices (and its
// prompt, when log probabilities of that are wanted); numbers only.

#ifndef TESSERA_COORDINATOR_ENGINE_REQUEST_STREAM_H_
#define TESSERA_COORDINATOR_ENGINE_REQUEST_STREAM_H_

#include <functional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/sched/event.h"

namespace tessera {

class RequestStream {
 public:
  // `wake` is called on the engine thread whenever the stream goes from empty to not empty; it must
  // only schedule work elsewhere.
  explicit RequestStream(std::function<void()> wake) : wake_(std::move(wake)) {}

  void Push(RequestUpdate update) ABSL_LOCKS_EXCLUDED(mutex_);
  // Everything that has come since the last call, in order.
  std::vector<RequestUpdate> Take() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const std::function<void()> wake_;
  absl::Mutex mutex_;
  std::vector<RequestUpdate> updates_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ENGINE_REQUEST_STREAM_H_
