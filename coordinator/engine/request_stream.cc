// Hand-over of updates from the engine thread to one consumer; see request_stream.h.

#include "coordinator/engine/request_stream.h"

#include <utility>

namespace tessera {

void RequestStream::Push(RequestUpdate update) {
  bool was_empty = false;
  {
    absl::MutexLock lock(&mutex_);
    was_empty = updates_.empty();
    updates_.push_back(std::move(update));
  }
  // Outside the lock: the consumer may take at once.
  if (was_empty) wake_();
}

std::vector<RequestUpdate> RequestStream::Take() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(updates_, {});
}

}  // namespace tessera
