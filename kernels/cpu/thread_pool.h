// The CPU helpers of one rank: a fixed set of threads that share out index ranges with the caller.
// Used by the kernels through ExecContext::threads, from one thread at a time (the rank's). Between
// jobs a helper spins for some tens of microseconds, then sleeps; an idle rank costs no CPU time.
// Which thread computes what is fixed by the split, and no kernel combines values across threads,
// so results do not depend on the number of threads.

#ifndef TESSERA_KERNELS_CPU_THREAD_POOL_H_
#define TESSERA_KERNELS_CPU_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"

namespace tessera {

class ThreadPool {
 public:
  // Lane `lane` of `lanes` equal parts of a job.
  using Body = absl::FunctionRef<void(int lane, int lanes)>;

  static constexpr int kThreadsMax = 1024;

  // `threads` counts the caller: 1 starts no helper.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Runs body(lane, threads()) once for every lane, the caller's being 0, and returns when all are
  // done. Must not be called from inside a body.
  void Run(Body body);

 private:
  void Help(int lane);
  // Waits for a job newer than `seen`; false when the pool is being destroyed.
  bool AwaitJob(uint32_t seen);
  void AwaitHelpers();

  const int threads_;
  std::vector<std::thread> helpers_;

  // One job at a time: body_ is written before job_ counts up and read only after that.
  const Body* body_ = nullptr;
  std::atomic<uint32_t> job_{0};
  std::atomic<int> running_{0};   // helpers still inside the current job
  std::atomic<int> sleepers_{0};  // helpers that gave up spinning
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stopping_{false};

  absl::Mutex mutex_;  // guards nothing but the two ways to sleep
  absl::CondVar job_posted_;
  absl::CondVar job_done_;
};

// Splits [0, n) in contiguous parts over the pool's threads, at least `grain` indices each; a job
// too small for two parts, or a null pool, runs on the caller alone.
void ParallelFor(ThreadPool* pool, int64_t n, int64_t grain,
                 absl::FunctionRef<void(int64_t begin, int64_t end)> body);

}  // namespace tessera

#endif  // TESSERA_KERNELS_CPU_THREAD_POOL_H_
