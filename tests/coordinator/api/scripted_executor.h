// A StepExecutor that computes nothing: it answers every plan from a script, on a thread of its
// own, like a group of ranks would. Tests set what is sampled, hold steps back, or slow them down.

#ifndef TESSERA_TESTS_COORDINATOR_API_SCRIPTED_EXECUTOR_H_
#define TESSERA_TESTS_COORDINATOR_API_SCRIPTED_EXECUTOR_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/engine/engine.h"
#include "coordinator/sched/step_executor.h"

namespace tessera::api {

class ScriptedExecutor final : public StepExecutor {
 public:
  // Token `index` (from 0) of the answer to a prompt of so many tokens.
  using Script = std::function<int32_t(size_t prompt_tokens, size_t index)>;

  ~ScriptedExecutor() override { Stop(); }
  void Submit(cluster::v1::StepPlan plan) override ABSL_LOCKS_EXCLUDED(mutex_);

  // Answers are posted to `engine` until Stop.
  void Start(Engine* engine);
  void Stop();

  void SetScript(Script script) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetStepTime(absl::Duration step_time) ABSL_LOCKS_EXCLUDED(mutex_);
  // While held, plans are taken and not answered: ranks that hang.
  void Hold(bool hold) ABSL_LOCKS_EXCLUDED(mutex_);
  // Tokens sampled so far, over all requests.
  uint64_t sampled() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run();
  cluster::v1::StepResult Answer(const cluster::v1::StepPlan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return stopping_ || (!hold_ && !plans_.empty());
  }

  Engine* engine_ = nullptr;
  std::thread thread_;
  mutable absl::Mutex mutex_;
  Script script_ ABSL_GUARDED_BY(mutex_);
  absl::Duration step_time_ ABSL_GUARDED_BY(mutex_);
  bool hold_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t sampled_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<cluster::v1::StepPlan> plans_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, size_t> prompt_tokens_ ABSL_GUARDED_BY(mutex_);  // by sequence
};

}  // namespace tessera::api

#endif  // TESSERA_TESTS_COORDINATOR_API_SCRIPTED_EXECUTOR_H_
