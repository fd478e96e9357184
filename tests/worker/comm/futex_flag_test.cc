// The counter that ranks sleep on: wake-ups, time-outs, and its way around 2^32.

#include "worker/comm/futex_flag.h"

#include <gtest/gtest.h>

#include <thread>

namespace tessera {
namespace {

using SteadyClock = std::chrono::steady_clock;

TEST(FutexFlagTest, ASleeperIsWokenByTheValueNotByItsDeadline) {
  FutexFlag flag = {};
  const auto start = SteadyClock::now();
  std::thread sleeper([&flag]() {
    const auto until = SteadyClock::now() + std::chrono::seconds(30);
    while (!Reached(flag, 1)) SleepOn(flag, 1, until);
  });
  // Published only once the other thread is in or at the kernel.
  while (flag.sleepers.load() == 0) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  Publish(flag, 1);
  sleeper.join();
  EXPECT_LT(SteadyClock::now() - start, std::chrono::seconds(15));
  EXPECT_EQ(flag.sleepers.load(), 0u);
}

TEST(FutexFlagTest, SleepEndsAtItsDeadlineAndAtOnceWhenThereIsNothingToWaitFor) {
  FutexFlag flag = {};
  const auto until = SteadyClock::now() + std::chrono::milliseconds(30);
  while (SteadyClock::now() < until) SleepOn(flag, 1, until);
  EXPECT_FALSE(Reached(flag, 1));
  Publish(flag, 1);
  SleepOn(flag, 1, SteadyClock::now() + std::chrono::hours(1));
}

TEST(FutexFlagTest, CountersWrapAround) {
  FutexFlag flag = {};
  EXPECT_TRUE(Reached(flag, 0xffffffffu));
  Publish(flag, 0xfffffffeu);
  EXPECT_FALSE(Reached(flag, 0xffffffffu));
  EXPECT_FALSE(Reached(flag, 1));
  Publish(flag, 1);
  EXPECT_TRUE(Reached(flag, 0xffffffffu));
  EXPECT_TRUE(Reached(flag, 1));
  EXPECT_FALSE(Reached(flag, 2));
}

}  // namespace
}  // namespace tessera
