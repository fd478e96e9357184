// Models that nobody computes any more, as main tells it, and who is to hear of that: every open
// generation of such a model ends with the reason. Shared by the front door and its generations,
// which may outlive it. Any thread.

#ifndef TESSERA_COORDINATOR_API_LOST_MODELS_H_
#define TESSERA_COORDINATOR_API_LOST_MODELS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace tessera::api {

class LostModels {
 public:
  // `reason` is what clients are told.
  void Lose(uint32_t model, absl::Status reason) ABSL_LOCKS_EXCLUDED(mutex_);
  void Regain(uint32_t model) ABSL_LOCKS_EXCLUDED(mutex_);
  // The reason, OK for a model that is not lost.
  absl::Status Check(uint32_t model) const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class LossWatch;
  struct Watcher {
    uint32_t model = 0;
    std::function<void()> wake;
  };

  mutable absl::Mutex mutex_;
  uint64_t next_watcher_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint32_t, absl::Status> lost_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Watcher> watchers_ ABSL_GUARDED_BY(mutex_);  // one per open generation
};

// Hears of the loss of one model as long as it lives.
class LossWatch {
 public:
  // `wake` is called when the model is lost, on the thread that says so; it must only schedule. It
  // may still run when the watch has just ended.
  LossWatch(std::shared_ptr<LostModels> models, uint32_t model, std::function<void()> wake);
  ~LossWatch();
  LossWatch(const LossWatch&) = delete;
  LossWatch& operator=(const LossWatch&) = delete;

  absl::Status Check() const { return models_->Check(model_); }

 private:
  const std::shared_ptr<LostModels> models_;
  const uint32_t model_;
  uint64_t id_ = 0;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_LOST_MODELS_H_
