// Every lane of every job runs exactly once, whether the helpers spin or sleep, and idle
// helpers sleep.

#include "kernels/cpu/thread_pool.h"

#include <time.h>

#include <atomic>
#include <numeric>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(ThreadPool, RunsEveryLaneOnce) {
  for (int threads : {1, 2, 4, 7}) {
    ThreadPool pool(threads);
    for (int job = 0; job < 300; ++job) {
      std::vector<int> runs(static_cast<size_t>(threads));
      pool.Run([&](int lane, int lanes) {
        EXPECT_EQ(lanes, threads);
        ++runs[static_cast<size_t>(lane)];
      });
      ASSERT_EQ(runs, std::vector<int>(static_cast<size_t>(threads), 1)) << "job " << job;
      if (job % 100 == 99) absl::SleepFor(absl::Milliseconds(2));  // the next job wakes sleepers
    }
  }
}

TEST(ThreadPool, SplitsRangesWithoutGapOrOverlap) {
  ThreadPool pool(3);
  for (int64_t n : {0, 1, 2, 3, 10, 1001}) {
    for (int64_t grain : {1, 4, 5000}) {
      std::vector<int> hits(static_cast<size_t>(n));
      std::atomic<int> calls = 0;
      ParallelFor(&pool, n, grain, [&](int64_t begin, int64_t end) {
        ++calls;
        EXPECT_LT(begin, end);
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      EXPECT_EQ(hits, std::vector<int>(static_cast<size_t>(n), 1)) << n << " by " << grain;
      EXPECT_LE(calls, std::max<int64_t>(1, n / grain));
    }
  }
  int alone = 0;
  ParallelFor(nullptr, 5, 1, [&](int64_t begin, int64_t end) { alone += int(end - begin); });
  EXPECT_EQ(alone, 5);
}

TEST(ThreadPool, CallerWaitsForASlowHelper) {
  ThreadPool pool(2);
  std::atomic<bool> finished = false;
  pool.Run([&](int lane, int) {
    if (lane == 0) return;
    absl::SleepFor(absl::Milliseconds(20));  // far past the spin
    finished = true;
  });
  EXPECT_TRUE(finished);
}

TEST(ThreadPool, IdleHelpersUseNoProcessorTime) {
  ThreadPool pool(4);
  pool.Run([](int, int) {});
  absl::SleepFor(absl::Milliseconds(20));
  const auto used = [] {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  const double before = used();
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_LT(used() - before, 0.02);  // three busy helpers would use 0.1 s on one core
}

}  // namespace
}  // namespace tessera
