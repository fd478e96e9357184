// Counting bytes of bodies, see body_budget.h.

#include "coordinator/api/body_budget.h"

#include "absl/strings/str_cat.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {

size_t BodyBudget::held() const {
  absl::MutexLock lock(&mutex_);
  return held_;
}

bool BodyBudget::TryTake(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (bytes > bytes_max_ - held_) return false;
  held_ += bytes;
  return true;
}

void BodyBudget::Give(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  held_ -= bytes;
}

absl::Status BodyLease::GrowTo(size_t bytes) {
  if (bytes <= bytes_) return absl::OkStatus();
  if (!budget_->TryTake(bytes - bytes_)) {
    return WithHttp(WithCode(absl::ResourceExhaustedError(absl::StrCat(
                                 "the server holds as many bytes of request bodies as it takes (",
                                 budget_->bytes_max_, "); send this again later")),
                             "server_overloaded"),
                    503);
  }
  bytes_ = bytes;
  return absl::OkStatus();
}

void BodyLease::Release() {
  if (bytes_ > 0) budget_->Give(std::exchange(bytes_, 0));
}

}  // namespace tessera::api
