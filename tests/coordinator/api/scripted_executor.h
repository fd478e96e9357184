// A StepExecutor that computes nothing: it answers every plan from a script, on a thread of its
// own, like a group of ranks would. Tests set what is sampled, hold steps back, or slow them down.

#ifndef TESSERA_TESTS_COORDINATOR_API_SCRIPTED_EXECUTOR_H_
#define TESSERA_TESTS_COORDINATOR_API_SCRIPTED_EXECUTOR_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/engine/engine.h"
#include "coordinator/sched/step_executor.h"

namespace tessera::api {

class ScriptedExecutor final : public StepExecutor {
 public:
  // Token `index` (from 0) of a choice of the answer to a prompt of so many tokens.
  using Script = std::function<int32_t(size_t prompt_tokens, size_t index, uint32_t choice)>;

  ~ScriptedExecutor() override { Stop(); }
  void Submit(cluster::v1::StepPlan plan) override ABSL_LOCKS_EXCLUDED(mutex_);

  // Answers are posted to `engine` until Stop.
  void Start(Engine* engine);
  void Stop();

  void SetScript(Script script) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetStepTime(absl::Duration step_time) ABSL_LOCKS_EXCLUDED(mutex_);
  // What the ranks say a step with rows took, whatever it did.
  void TellStepTime(absl::Duration told) ABSL_LOCKS_EXCLUDED(mutex_);
  // While held, plans are taken and not answered: ranks that hang.
  void Hold(bool hold) ABSL_LOCKS_EXCLUDED(mutex_);
  // Tokens sampled so far, over all requests.
  uint64_t sampled() const ABSL_LOCKS_EXCLUDED(mutex_);
  // How the last sequence that appeared is to be sampled.
  cluster::v1::SamplingParams last_sampling() const ABSL_LOCKS_EXCLUDED(mutex_);

  // What ranks would have made of the logits: the log probability of a token at a position (of
  // prompt and output together), a multiple of 1/8, and its alternatives, the token itself first.
  static float Logprob(int32_t token, size_t position, uint32_t choice);
  static std::vector<std::pair<int32_t, float>> TopLogprobs(int32_t token, size_t position,
                                                            uint32_t choice, uint32_t count);

 private:
  void Run();
  void Score(int32_t token, size_t position, uint32_t choice, uint32_t alternatives,
             cluster::v1::StepResult* result) const;
  void AnswerRow(const cluster::v1::StepPlan& plan, int row, cluster::v1::StepResult* result)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
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
  absl::Duration told_step_time_ ABSL_GUARDED_BY(mutex_);
  bool hold_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t sampled_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<cluster::v1::StepPlan> plans_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, cluster::v1::SequenceReset> known_ ABSL_GUARDED_BY(mutex_);  // by sequence
  cluster::v1::SamplingParams last_sampling_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::api

#endif  // TESSERA_TESTS_COORDINATOR_API_SCRIPTED_EXECUTOR_H_
