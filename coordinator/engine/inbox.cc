// The queue in front of the engine thread; see inbox.h.

#include "coordinator/engine/inbox.h"

#include <utility>

#include "base/check.h"

namespace tessera {

Refusal Inbox::Judge(RequestCost cost) const {
  if (closed_ || draining_) return Refusal::kDraining;
  if (num_requests_ + num_drained_ + num_waiting_ >= limits_.requests_max)
    return Refusal::kRequests;
  const auto is_beyond = [](int64_t waiting, int64_t more, int64_t max) {
    return waiting > 0 && waiting + more > max;
  };
  if (is_beyond(cost_waiting_.tokens, cost.tokens, limits_.tokens_max)) return Refusal::kTokens;
  if (is_beyond(cost_waiting_.bytes, cost.bytes, limits_.bytes_max)) return Refusal::kBytes;
  return Refusal::kNone;
}

Refusal Inbox::PushRequest(NewRequest request, std::shared_ptr<RequestStream> stream) {
  const RequestCost cost = CostOf(*request.request);
  absl::MutexLock lock(&mutex_);
  const Refusal refusal = Judge(cost);
  if (refusal != Refusal::kNone) return refusal;
  ++num_requests_;
  cost_waiting_ += cost;
  items_.push_back(InboxItem{.event = std::move(request), .stream = std::move(stream)});
  return Refusal::kNone;
}

Refusal Inbox::Check() const {
  absl::MutexLock lock(&mutex_);
  return Judge(RequestCost{});
}

int64_t Inbox::waiting() const {
  absl::MutexLock lock(&mutex_);
  return num_requests_ + num_drained_ + num_waiting_;
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

void Inbox::Settle(int64_t waiting, RequestCost begun) {
  absl::MutexLock lock(&mutex_);
  num_drained_ = 0;
  num_waiting_ = waiting;
  cost_waiting_ -= begun;
  TESSERA_CHECK(cost_waiting_.tokens >= 0 && cost_waiting_.bytes >= 0)
      << "more has begun than was waiting";
}

}  // namespace tessera
