// The system calls, and the one subtle rule: Publish stores the value and then reads `sleepers`,
// SleepOn raises `sleepers` and then reads the value, both sequentially consistent, so at least one
// of the two sees the other and no wake-up is lost.

#include "worker/comm/futex_flag.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

namespace tessera {
namespace {

// Not the _PRIVATE forms: the waiters may be other processes.
void FutexWake(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

void Publish(FutexFlag& flag, uint32_t value) {
  flag.value.store(value, std::memory_order_seq_cst);
  if (flag.sleepers.load(std::memory_order_seq_cst) != 0) FutexWake(flag.value);
}

void WakeAll(FutexFlag& flag) { FutexWake(flag.value); }

void SleepOn(FutexFlag& flag, uint32_t target, std::chrono::steady_clock::time_point until) {
  flag.sleepers.fetch_add(1, std::memory_order_seq_cst);
  const uint32_t seen = flag.value.load(std::memory_order_seq_cst);
  const auto left =
      std::chrono::duration_cast<std::chrono::nanoseconds>(until - std::chrono::steady_clock::now())
          .count();
  if (static_cast<int32_t>(seen - target) < 0 && left > 0) {
    timespec timeout = {};
    timeout.tv_sec = static_cast<time_t>(left / 1'000'000'000);
    timeout.tv_nsec = static_cast<long>(left % 1'000'000'000);
    // Returns at once when the value is no longer `seen`; every other reason to return is fine too.
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&flag.value), FUTEX_WAIT, seen, &timeout,
            nullptr, 0);
  }
  flag.sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace tessera
