// See the header.

#include "coordinator/api/lost_models.h"

#include <utility>
#include <vector>

namespace tessera::api {

void LostModels::Lose(uint32_t model, absl::Status reason) {
  std::vector<std::function<void()>> wakes;
  {
    absl::MutexLock lock(&mutex_);
    lost_[model] = std::move(reason);
    for (const auto& [id, watcher] : watchers_) {
      if (watcher.model == model) wakes.push_back(watcher.wake);
    }
  }
  for (const auto& wake : wakes) wake();
}

void LostModels::Regain(uint32_t model) {
  absl::MutexLock lock(&mutex_);
  lost_.erase(model);
}

absl::Status LostModels::Check(uint32_t model) const {
  absl::MutexLock lock(&mutex_);
  const auto found = lost_.find(model);
  return found == lost_.end() ? absl::OkStatus() : found->second;
}

LossWatch::LossWatch(std::shared_ptr<LostModels> models, uint32_t model, std::function<void()> wake)
    : models_(std::move(models)), model_(model) {
  absl::MutexLock lock(&models_->mutex_);
  id_ = models_->next_watcher_++;
  models_->watchers_.emplace(id_, LostModels::Watcher{model, std::move(wake)});
}

LossWatch::~LossWatch() {
  absl::MutexLock lock(&models_->mutex_);
  models_->watchers_.erase(id_);
}

}  // namespace tessera::api
