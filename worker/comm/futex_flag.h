// A counter in shared memory that one rank raises and others wait for: first spinning, then asleep
// in the kernel. Works between processes and between threads. The counter wraps; comparisons are by
// signed distance, so waiter and writer must stay within 2^31 of each other.

#ifndef TESSERA_WORKER_COMM_FUTEX_FLAG_H_
#define TESSERA_WORKER_COMM_FUTEX_FLAG_H_

#include <atomic>
#include <chrono>
#include <cstdint>

namespace tessera {

// One cache line, written by one rank (apart from `sleepers`).
struct alignas(64) FutexFlag {
  std::atomic<uint32_t> value;
  std::atomic<uint32_t> sleepers;  // waiters in or near the kernel
  // What the writer says about this value; written before it is published, see Publish.
  uint64_t note[2];
};
static_assert(sizeof(FutexFlag) == 64);
static_assert(std::atomic<uint32_t>::is_always_lock_free);

inline bool Reached(const FutexFlag& flag, uint32_t target) {
  return static_cast<int32_t>(flag.value.load(std::memory_order_acquire) - target) >= 0;
}

// Makes everything written before visible to whoever sees `value`, and wakes sleepers.
void Publish(FutexFlag& flag, uint32_t value);

// Wakes sleepers without a new value, so that they look around.
void WakeAll(FutexFlag& flag);

// Sleeps until the flag may have reached `target`, was woken for another reason, or `until` has
// passed; the caller looks again.
void SleepOn(FutexFlag& flag, uint32_t target, std::chrono::steady_clock::time_point until);

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_FUTEX_FLAG_H_
