// The queue in front of the engine thread; see inbox.h.

#include "coordinator/engine/inbox.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera {

absl::Status Inbox::PushRequest(NewRequest request, std::shared_ptr<RequestStream> stream) {
  absl::MutexLock lock(&mutex_);
  if (closed_ || draining_) {
    return absl::UnavailableError("the server is shutting down and takes no new requests");
  }
  if (num_requests_ + num_drained_ + num_waiting_ >= requests_max_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full (", requests_max_, " requests wait); retry later"));
  }
  ++num_requests_;
  items_.push_back(InboxItem{.event = std::move(request), .stream = std::move(stream)});
  return absl::OkStatus();
}

void Inbox::Push(Event event) {
  absl::MutexLock lock(&mutex_);
  if (!closed_) items_.push_back(InboxItem{.event = std::move(event), .stream = nullptr});
}

void Inbox::BeginDrain() {
  absl::MutexLock lock(&mutex_);
  if (closed_ || std::exchange(draining_, true)) return;
  items_.push_back(InboxItem{.event = Drain{}, .stream = nullptr});
}

std::vector<InboxItem> Inbox::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  num_requests_ = 0;
  return std::exchange(items_, {});
}

std::vector<InboxItem> Inbox::WaitAndDrain(absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(this, &Inbox::IsNotEmpty), limit);
  num_drained_ += std::exchange(num_requests_, 0);
  return std::exchange(items_, {});
}

void Inbox::Settle(int64_t waiting) {
  absl::MutexLock lock(&mutex_);
  num_drained_ = 0;
  num_waiting_ = waiting;
}

}  // namespace tessera
