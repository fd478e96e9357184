// A StepExecutor for engine tests: symbolic ranks that compute on a thread of their own and post
// what they have computed. Loses and regains its group on request.

#ifndef TESSERA_TESTS_COORDINATOR_ENGINE_THREADED_RANKS_H_
#define TESSERA_TESTS_COORDINATOR_ENGINE_THREADED_RANKS_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/sched/step_executor.h"
#include "tests/coordinator/sched/fake_ranks.h"

namespace tessera::testing {

class ThreadedRanks : public StepExecutor {
 public:
  explicit ThreadedRanks(SchedulerOptions options) : options_(std::move(options)) {}
  ~ThreadedRanks() override { Stop(); }

  // `post` leads to the engine.
  void Start(std::function<void(Event)> post) {
    post_ = std::move(post);
    thread_ = std::thread([this] { Run(); });
  }
  void Stop() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  void BecomeReady(uint32_t num_blocks) {
    std::lock_guard lock(mutex_);
    ++epoch_;
    plans_.clear();
    const GroupReady ready{.group = 0, .epoch = epoch_, .model = 0, .num_blocks = {num_blocks}};
    ranks_ = std::make_unique<FakeRanks>(ready, options_, 2, violations_);
    post_(ready);
  }
  void GetLost() {
    std::lock_guard lock(mutex_);
    plans_.clear();
    ranks_.reset();
    post_(GroupLost{.group = 0, .epoch = epoch_, .reason = absl::UnavailableError("gone")});
  }
  // While held, plans are taken and not answered.
  void Hold(bool hold) {
    {
      std::lock_guard lock(mutex_);
      held_ = hold;
    }
    changed_.notify_all();
  }
  std::vector<std::string> violations() {
    std::lock_guard lock(mutex_);
    return violations_;
  }

  void Submit(cluster::v1::StepPlan plan) override {
    {
      std::lock_guard lock(mutex_);
      if (ranks_ == nullptr || plan.epoch() != epoch_) return;  // its loss is on its way
      plans_.push_back(std::move(plan));
    }
    changed_.notify_all();
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      changed_.wait_for(lock, std::chrono::milliseconds(100),
                        [this] { return stopping_ || (!plans_.empty() && !held_); });
      if (stopping_ || plans_.empty() || held_) continue;
      ranks_->Submit(plans_.front());
      plans_.pop_front();
      post_(ranks_->Finish());
    }
  }

  const SchedulerOptions options_;
  std::function<void(Event)> post_;
  std::thread thread_;
  std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  bool stopping_ = false;
  bool held_ = false;
  uint64_t epoch_ = 0;
  std::unique_ptr<FakeRanks> ranks_;
  std::deque<cluster::v1::StepPlan> plans_;  // in the order they are computed
  std::vector<std::string> violations_;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_COORDINATOR_ENGINE_THREADED_RANKS_H_
