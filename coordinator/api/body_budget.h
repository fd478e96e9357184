// The bytes of all request bodies that are held at once, over all connections of both doors. A
// request takes its share before its body is read (where it says how long that will be) or while,
// and gives it back with its BodyLease. Any thread.

#ifndef TESSERA_COORDINATOR_API_BODY_BUDGET_H_
#define TESSERA_COORDINATOR_API_BODY_BUDGET_H_

#include <cstddef>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace tessera::api {

class BodyBudget {
 public:
  explicit BodyBudget(size_t bytes_max) : bytes_max_(bytes_max) {}

  size_t held() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class BodyLease;
  bool TryTake(size_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void Give(size_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  const size_t bytes_max_;
  mutable absl::Mutex mutex_;
  size_t held_ ABSL_GUARDED_BY(mutex_) = 0;
};

// One request's share; empty at first.
class BodyLease {
 public:
  explicit BodyLease(std::shared_ptr<BodyBudget> budget) : budget_(std::move(budget)) {}
  BodyLease(BodyLease&& other) noexcept
      : budget_(std::move(other.budget_)), bytes_(std::exchange(other.bytes_, 0)) {}
  BodyLease& operator=(BodyLease&&) = delete;
  ~BodyLease() { Release(); }

  // Holds at least `bytes` from now on. RESOURCE_EXHAUSTED, 503 in HTTP: what is held stays.
  absl::Status GrowTo(size_t bytes);
  void Release();

 private:
  std::shared_ptr<BodyBudget> budget_;
  size_t bytes_ = 0;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_BODY_BUDGET_H_
