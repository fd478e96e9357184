// Virtual time: order, ties, never early, and a clock that only the queue moves.

#include "coordinator/sim/event_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "coordinator/sim/random.h"

namespace tessera::sim {
namespace {

using ::testing::ElementsAre;

constexpr uint64_t kSeed = 7;

TEST(EventQueueTest, RunsByTimeAndThenInTheOrderOfAsking) {
  EventQueue queue;
  std::vector<int> ran;
  queue.After(absl::Seconds(2), [&] { ran.push_back(3); });
  queue.After(absl::Seconds(1), [&] {
    ran.push_back(1);
    queue.After(absl::Seconds(1), [&] { ran.push_back(5); });
  });
  queue.After(absl::Seconds(1), [&] { ran.push_back(2); });
  queue.After(absl::Seconds(2), [&] { ran.push_back(4); });
  queue.RunUntil(absl::UnixEpoch() + absl::Seconds(2));
  EXPECT_THAT(ran, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(queue.Now(), absl::UnixEpoch() + absl::Seconds(2));
  EXPECT_EQ(queue.num_run(), 5u);
}

// Many events at few moments: the heap may not shuffle those of one moment.
TEST(EventQueueTest, TiesKeepTheirOrderHoweverManyThereAre) {
  SCOPED_TRACE(::testing::Message() << "seed " << kSeed);
  EventQueue queue;
  Random random(kSeed);
  std::vector<std::pair<int64_t, int>> ran;  // second, number
  for (int number = 0; number < 2000; ++number) {
    const int64_t second = random.Between(1, 5);
    queue.At(absl::UnixEpoch() + absl::Seconds(second),
             [&ran, second, number] { ran.emplace_back(second, number); });
  }
  queue.RunUntil(absl::UnixEpoch() + absl::Seconds(5));
  EXPECT_EQ(ran.size(), 2000u);
  EXPECT_TRUE(std::is_sorted(ran.begin(), ran.end()));
}

TEST(EventQueueTest, ThePastIsNow) {
  EventQueue queue;
  queue.RunUntil(absl::UnixEpoch() + absl::Seconds(5));
  bool ran = false;
  queue.At(absl::UnixEpoch(), [&] { ran = true; });
  EXPECT_EQ(queue.NextTime(), queue.Now());
  queue.RunNext();
  EXPECT_TRUE(ran);
  EXPECT_EQ(queue.Now(), absl::UnixEpoch() + absl::Seconds(5));
}

TEST(EventQueueTest, IsNeverEarly) {
  SCOPED_TRACE(::testing::Message() << "seed " << kSeed);
  EventQueue queue;
  Random random(kSeed);
  for (int i = 0; i < 1000; ++i) {
    const absl::Time wanted = queue.Now() + absl::Seconds(random.Uniform());
    queue.At(wanted, [&queue, wanted] { EXPECT_GE(queue.Now(), wanted); });
    queue.RunNext();
    EXPECT_LT(queue.Now() - wanted, absl::Nanoseconds(1));
  }
}

TEST(EventQueueTest, RunsUpToTheMomentAndNoFurther) {
  EventQueue queue;
  int ran = 0;
  queue.After(absl::Seconds(1), [&] { ++ran; });
  queue.After(absl::Seconds(1) + absl::Nanoseconds(1), [&] { ++ran; });
  queue.RunUntil(absl::UnixEpoch() + absl::Seconds(1));
  EXPECT_EQ(ran, 1);
  EXPECT_FALSE(queue.empty());
  queue.RunNext();
  EXPECT_EQ(ran, 2);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.NextTime(), absl::InfiniteFuture());
}

TEST(RandomTest, TheSameSeedGivesTheSameNumbersOnEveryMachine) {
  // Written down once: a life must be the same everywhere.
  Random known(3);
  EXPECT_THAT((std::vector<uint64_t>{known.Next(), known.Next()}),
              ElementsAre(13604808898340030615u, 10945051594806084850u));
  Random a(3);
  Random b(3);
  Random other(4);
  int equal = 0;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t number = a.Next();
    EXPECT_EQ(number, b.Next());
    equal += number == other.Next() ? 1 : 0;
  }
  EXPECT_EQ(equal, 0);
}

TEST(RandomTest, AForkIsAnotherGenerator) {
  Random a(3);
  Random b(3);
  Random fork = a.Fork();
  EXPECT_NE(fork.Next(), a.Next());
  // However much the fork is used, its parent goes on as if nothing had been drawn.
  for (int i = 0; i < 100; ++i) fork.Next();
  b.Fork();
  b.Next();
  EXPECT_EQ(a.Next(), b.Next());
}

TEST(RandomTest, StaysInItsBoundsAndReachesThem) {
  SCOPED_TRACE(::testing::Message() << "seed " << kSeed);
  Random random(kSeed);
  constexpr int kDraws = 20000;
  int low = 0;
  int high = 0;
  int hits = 0;
  double sum = 0;
  double exponentials = 0;
  for (int i = 0; i < kDraws; ++i) {
    const int64_t value = random.Between(-2, 2);
    EXPECT_GE(value, -2);
    EXPECT_LE(value, 2);
    low += value == -2 ? 1 : 0;
    high += value == 2 ? 1 : 0;
    hits += random.Chance(0.3) ? 1 : 0;
    const double uniform = random.Uniform();
    EXPECT_GE(uniform, 0);
    EXPECT_LT(uniform, 1);
    sum += uniform;
    const double exponential = random.Exponential();
    EXPECT_GE(exponential, 0);
    exponentials += exponential;
    const absl::Duration duration = random.Between(absl::Seconds(1), absl::Seconds(2));
    EXPECT_GE(duration, absl::Seconds(1));
    EXPECT_LE(duration, absl::Seconds(2));
  }
  // Each within five standard deviations.
  EXPECT_NEAR(low, kDraws / 5.0, 290);
  EXPECT_NEAR(high, kDraws / 5.0, 290);
  EXPECT_NEAR(hits, kDraws * 0.3, 330);
  EXPECT_NEAR(sum / kDraws, 0.5, 0.011);
  EXPECT_NEAR(exponentials / kDraws, 1, 0.036);
  EXPECT_EQ(random.Below(0), 0u);
  EXPECT_EQ(random.Below(1), 0u);
  EXPECT_FALSE(random.Chance(0));
  EXPECT_TRUE(random.Chance(1));
}

}  // namespace
}  // namespace tessera::sim
