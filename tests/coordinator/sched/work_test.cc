// How the time of a step is split over its rows.

#include "coordinator/sched/work.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace tessera {
namespace {

using cluster::v1::DeviceInterval;
using cluster::v1::StepResult;

StepResult Took(uint64_t step_ns, uint64_t collective_ns) {
  StepResult result;
  result.set_step_ns(step_ns);
  DeviceInterval* interval = result.add_intervals();
  interval->set_kind(DeviceInterval::COLLECTIVE);
  interval->set_duration_ns(collective_ns);
  return result;
}

TEST(SharedSecondsTest, WhoWaitsForTheSlowestRankWorksForNobody) {
  // The second rank comes 3 s late: the first one waits as long in a collective.
  const std::vector<StepResult> ranks = {Took(10'000'000'000, 4'000'000'000),
                                         Took(10'000'000'000, 1'000'000'000)};
  EXPECT_DOUBLE_EQ(SharedSeconds(ranks), 17);
  EXPECT_DOUBLE_EQ(SharedSeconds({ranks.data(), 1}), 10);
  EXPECT_EQ(SharedSeconds({}), 0);
}

TEST(SharedSecondsTest, ARankCannotHaveWaitedLongerThanItsStep) {
  const std::vector<StepResult> ranks = {Took(1'000'000'000, 9'000'000'000),
                                         Took(1'000'000'000, 0)};
  EXPECT_DOUBLE_EQ(SharedSeconds(ranks), 1);
}

TEST(ShareOutTest, TheSharesOfAllRowsSumUpToTheStep) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int round = 0; round < 1000; ++round) {
    const StepCost::Terms cost{.fixed = round % 2 * uniform(random),
                               .per_token = round % 3 * uniform(random),
                               .per_pair = round % 5 * uniform(random) * 1e-3};
    std::vector<std::pair<int64_t, int64_t>> rows(1 + random() % 20);
    double tokens = 0;
    double attended = 0;
    for (auto& [start, count] : rows) {
      start = static_cast<int64_t>(random() % 5000);
      count = static_cast<int64_t>(1 + random() % 300);
      tokens += static_cast<double>(count);
      attended += AttendedPairs(start, count);
    }
    const double seconds = uniform(random);
    const RowShares shares = ShareOut(seconds, cost, rows.size(), tokens, attended);
    double sum = 0;
    for (const auto& [start, count] : rows) sum += shares.Of(start, count);
    EXPECT_NEAR(sum, seconds, 1e-9);
  }
}

TEST(ShareOutTest, WeightsTokensAndCacheArePaidByWhoUsesThem) {
  // A step of 10 s: 2 for itself, 1 a token, 0.5 a pair; rows of 1 token behind 3 and 1 behind 7.
  const StepCost::Terms cost{.fixed = 2, .per_token = 1, .per_pair = 0.5};
  const RowShares shares = ShareOut(10, cost, 2, 2, 12);
  EXPECT_DOUBLE_EQ(shares.Of(3, 1), 1 + 1 + 0.5 * 4);
  EXPECT_DOUBLE_EQ(shares.Of(7, 1), 1 + 1 + 0.5 * 8);
}

TEST(ShareOutTest, UntilTheCostIsKnownTokensDecide) {
  const RowShares shares = ShareOut(10, {}, 2, 5, 1000);
  EXPECT_DOUBLE_EQ(shares.Of(0, 4), 8);
  EXPECT_DOUBLE_EQ(shares.Of(900, 1), 2);
}

}  // namespace
}  // namespace tessera
