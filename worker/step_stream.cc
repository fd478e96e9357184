// Two loops around two bounded queues. Messages are swapped in and out, never copied: in steady
// decode plans and results reuse the memory of earlier ones.

#include "worker/step_stream.h"

#include <utility>

namespace tessera {
namespace {

using cluster::v1::StepPlan;
using cluster::v1::StepResult;

// A message with memory from an earlier one, if there is any.
template <typename Message>
Message TakeSpent(std::vector<Message>& spent) {
  if (spent.empty()) return Message();
  Message message = std::move(spent.back());
  spent.pop_back();
  return message;
}

template <typename Message>
void KeepSpent(Message message, size_t max, std::vector<Message>& spent) {
  if (spent.size() < max) spent.push_back(std::move(message));
}

}  // namespace

StepStream::StepStream(Wire& wire)
    : wire_(wire), reader_([this] { ReadLoop(); }), writer_([this] { WriteLoop(); }) {}

StepStream::~StepStream() {
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
  }
  reader_.join();
  writer_.join();
}

bool StepStream::Take(StepPlan& plan) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]()
                         ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return ended_ || !plans_.empty(); };
  mutex_.Await(absl::Condition(&ready));
  if (ended_) return false;
  KeepSpent(std::exchange(plan, std::move(plans_.front())), kPlansQueuedMax, spent_plans_);
  plans_.pop_front();
  return true;
}

bool StepStream::Send(StepResult& result) {
  absl::MutexLock lock(&mutex_);
  const auto room = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return ended_ || results_.size() < kResultsQueuedMax;
  };
  mutex_.Await(absl::Condition(&room));
  if (ended_) return false;
  results_.push_back(std::exchange(result, TakeSpent(spent_results_)));
  result.Clear();
  return true;
}

void StepStream::CloseSending(absl::Duration patience) {
  absl::MutexLock lock(&mutex_);
  const auto written = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return ended_ || (results_.empty() && !writing_);
  };
  mutex_.AwaitWithTimeout(absl::Condition(&written), patience);
  closing_ = true;
}

void StepStream::ReadLoop() {
  StepPlan plan;
  while (wire_.Read(&plan)) {
    absl::MutexLock lock(&mutex_);
    const auto room = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return ended_ || plans_.size() < kPlansQueuedMax;
    };
    mutex_.Await(absl::Condition(&room));
    if (ended_) return;
    plans_.push_back(std::exchange(plan, TakeSpent(spent_plans_)));
  }
  absl::MutexLock lock(&mutex_);
  ended_ = true;
}

void StepStream::WriteLoop() {
  StepResult result;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return ended_ || closing_ || !results_.empty();
      };
      mutex_.Await(absl::Condition(&ready));
      if (ended_) return;
      if (results_.empty()) break;
      KeepSpent(std::exchange(result, std::move(results_.front())), kResultsQueuedMax,
                spent_results_);
      results_.pop_front();
      writing_ = true;
    }
    if (wire_.Write(result)) continue;
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    return;
  }
  wire_.WritesDone();
}

}  // namespace tessera
