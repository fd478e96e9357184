// A locked queue with the fencing rules in front of it.

#include "worker/inbox.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera {

using cluster::v1::Assign;
using cluster::v1::CommPeers;
using cluster::v1::CoordinatorMessage;

absl::Status Inbox::BeginJoin(uint64_t term) {
  absl::MutexLock lock(&mutex_);
  if (term < term_) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the coordinator's term is ", term, " but this worker has obeyed term ", term_,
        ": an older coordinator answers at this address; restart the worker to accept it"));
  }
  term_ = term;
  epoch_ = 0;
  const auto stops = [](const RankEvent& event) {
    return std::holds_alternative<StopRequested>(event);
  };
  std::deque<RankEvent> kept;
  std::copy_if(events_.begin(), events_.end(), std::back_inserter(kept), stops);
  events_ = std::move(kept);
  return absl::OkStatus();
}

bool Inbox::Stale(const CoordinatorMessage& message) {
  if (message.has_assign()) {
    const Assign& assign = message.assign();
    if (assign.term() < term_ || (assign.term() == term_ && assign.epoch() <= epoch_)) return true;
    term_ = assign.term();
    epoch_ = assign.epoch();
    return false;
  }
  if (message.has_comm_peers()) return message.comm_peers().epoch() != epoch_;
  if (message.has_unassign()) {
    return message.unassign().term() != term_ || message.unassign().epoch() != epoch_;
  }
  return false;
}

absl::Status Inbox::Post(const CoordinatorMessage& message) {
  absl::MutexLock lock(&mutex_);
  if (events_.size() >= kEventsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the coordinator sent ", kEventsMax, " messages that wait to be obeyed"));
  }
  if (Stale(message)) return absl::OkStatus();
  switch (message.message_case()) {
    case CoordinatorMessage::kAssign:
      Push(message.assign());
      return absl::OkStatus();
    case CoordinatorMessage::kCommPeers:
      Push(message.comm_peers());
      return absl::OkStatus();
    case CoordinatorMessage::kUnassign:
      Push(message.unassign());
      return absl::OkStatus();
    case CoordinatorMessage::kShutdown:
      Push(message.shutdown());
      return absl::OkStatus();
    case CoordinatorMessage::kWelcome:
    case CoordinatorMessage::MESSAGE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(
      "the coordinator sent a message that this version does not know, "
      "or a second Welcome");
}

void Inbox::PostLinkLost(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  Push(LinkLost{std::move(status)});
}

void Inbox::PostStop(std::string reason) {
  absl::MutexLock lock(&mutex_);
  Push(StopRequested{std::move(reason)});
}

void Inbox::Push(RankEvent event) {
  // A stop overtakes what the coordinator still wanted.
  if (std::holds_alternative<StopRequested>(event)) {
    events_.push_front(std::move(event));
  } else {
    events_.push_back(std::move(event));
  }
  if (wake_ && Interrupted()) std::exchange(wake_, nullptr)();
}

bool Inbox::Interrupted() const {
  return std::any_of(events_.begin(), events_.end(), [](const RankEvent& event) {
    return !std::holds_alternative<CommPeers>(event);
  });
}

std::optional<RankEvent> Inbox::Take(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !events_.empty(); };
  if (!mutex_.AwaitWithDeadline(absl::Condition(&ready), deadline)) return std::nullopt;
  RankEvent event = std::move(events_.front());
  events_.pop_front();
  return event;
}

absl::StatusOr<CommPeers> Inbox::TakePeers(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !events_.empty(); };
  if (!mutex_.AwaitWithDeadline(absl::Condition(&ready), deadline)) {
    return absl::DeadlineExceededError(
        "the coordinator did not say how to reach the other ranks of the group; did they load?");
  }
  if (Interrupted()) return absl::CancelledError("the coordinator has other plans");
  CommPeers peers = std::move(std::get<CommPeers>(events_.front()));
  events_.pop_front();
  return peers;
}

bool Inbox::interrupted() const {
  absl::MutexLock lock(&mutex_);
  return Interrupted();
}

bool Inbox::stop_requested() const {
  absl::MutexLock lock(&mutex_);
  return !events_.empty() && std::holds_alternative<StopRequested>(events_.front());
}

bool Inbox::SleepUnlessInterrupted(absl::Time deadline) const {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return Interrupted(); };
  return mutex_.AwaitWithDeadline(absl::Condition(&ready), deadline);
}

Inbox::WakeScope::WakeScope(Inbox& inbox, std::function<void()> wake) : inbox_(inbox) {
  absl::MutexLock lock(&inbox_.mutex_);
  if (inbox_.Interrupted()) {
    wake();
  } else {
    inbox_.wake_ = std::move(wake);
  }
}

Inbox::WakeScope::~WakeScope() {
  absl::MutexLock lock(&inbox_.mutex_);
  inbox_.wake_ = nullptr;
}

}  // namespace tessera
