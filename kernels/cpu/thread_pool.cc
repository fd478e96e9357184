// See thread_pool.h. Sleeping is a handshake of two sequentially consistent variables on each side
// (sleeper: announce, then look for work; waker: publish work, then look for sleepers), so no
// wake-up is lost. The waits carry no deadline of their own: a helper's ends with the next job or
// the destructor, the caller's with the helpers' own arithmetic, which never blocks.

#include "kernels/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"

namespace tessera {
namespace {

// About as long as two wake-ups of a sleeping thread.
constexpr std::chrono::microseconds kSpinMax(40);
constexpr int kPausesPerLook = 32;

// Spins until done() or the limit; the last value of done().
template <typename Done>
bool SpinUntil(Done done) {
  if (done()) return true;
  const auto limit = std::chrono::steady_clock::now() + kSpinMax;
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (done()) return true;
      __builtin_ia32_pause();
    }
  } while (std::chrono::steady_clock::now() < limit);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  TESSERA_CHECK(threads >= 1 && threads <= kThreadsMax) << threads << " threads";
  helpers_.reserve(threads - 1);
  for (int lane = 1; lane < threads; ++lane) {
    helpers_.emplace_back([this, lane] { Help(lane); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  {
    absl::MutexLock lock(&mutex_);
    job_posted_.SignalAll();
  }
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::Run(Body body) {
  if (!helpers_.empty()) {
    body_ = &body;
    running_ = static_cast<int>(helpers_.size());
    ++job_;
    if (sleepers_ > 0) {
      absl::MutexLock lock(&mutex_);
      job_posted_.SignalAll();
    }
  }
  body(0, threads_);
  AwaitHelpers();
}

void ThreadPool::AwaitHelpers() {
  const auto done = [this] { return running_ == 0; };
  if (SpinUntil(done)) return;
  absl::MutexLock lock(&mutex_);
  caller_sleeps_ = true;
  while (!done()) job_done_.Wait(&mutex_);
  caller_sleeps_ = false;
}

bool ThreadPool::AwaitJob(uint32_t seen) {
  const auto ready = [this, seen] { return job_ != seen || stopping_; };
  if (!SpinUntil(ready)) {
    absl::MutexLock lock(&mutex_);
    ++sleepers_;
    while (!ready()) job_posted_.Wait(&mutex_);
    --sleepers_;
  }
  return !stopping_;
}

void ThreadPool::Help(int lane) {
  for (uint32_t seen = 0; AwaitJob(seen); ++seen) {
    (*body_)(lane, threads_);
    if (--running_ == 0 && caller_sleeps_) {
      absl::MutexLock lock(&mutex_);
      job_done_.Signal();
    }
  }
}

void ParallelFor(ThreadPool* pool, int64_t n, int64_t grain,
                 absl::FunctionRef<void(int64_t begin, int64_t end)> body) {
  if (n <= 0) return;
  const int64_t parts_max = std::max<int64_t>(1, n / std::max<int64_t>(1, grain));
  const int64_t parts = pool == nullptr ? 1 : std::min<int64_t>(pool->threads(), parts_max);
  if (parts == 1) {
    body(0, n);
    return;
  }
  pool->Run([&](int lane, int) {
    if (lane < parts) body(n * lane / parts, n * (lane + 1) / parts);
  });
}

}  // namespace tessera
