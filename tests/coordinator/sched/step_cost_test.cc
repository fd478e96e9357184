// Learning what steps cost, and looking ahead over the KV cache.

#include "coordinator/sched/step_cost.h"

#include <gtest/gtest.h>

#include "coordinator/sched/outlook.h"

namespace tessera {
namespace {

TEST(StepCostTest, NothingIsKnownBeforeSomeStepsWereSeen) {
  StepCost cost;
  for (int i = 0; i < 7; ++i) cost.Observe(1, 1, 0.01);
  EXPECT_FALSE(cost.known());
  cost.Observe(1, 1, 0.01);
  EXPECT_TRUE(cost.known());
}

TEST(StepCostTest, LearnsTheThreeParts) {
  StepCost cost;
  const auto seconds = [](double tokens, double pairs) {
    return 0.005 + 20e-6 * tokens + 3e-9 * pairs;
  };
  for (int i = 0; i < 300; ++i) {
    const double tokens = 1 + i * 37 % 500;
    const double pairs = tokens * (i * 91 % 4000);
    cost.Observe(tokens, pairs, seconds(tokens, pairs));
  }
  EXPECT_NEAR(cost.Predict(400, 400 * 1000.0), seconds(400, 400 * 1000.0), 0.0005);
  EXPECT_NEAR(cost.Added(100, 0), 0.002, 0.0002);
  const int64_t fits = cost.TokensWithin(0.004, 0, 1000);
  EXPECT_NEAR(static_cast<double>(fits), 195, 20);
  EXPECT_LT(cost.TokensWithin(0.004, 30000, 1000), fits / 3);
  EXPECT_EQ(cost.TokensWithin(-1, 0, 1000), 0);
}

TEST(StepCostTest, ForgetsWhatWasTrueBefore) {
  StepCost cost;
  for (int i = 0; i < 500; ++i) cost.Observe(10 + i % 50, 0, 1);
  for (int i = 0; i < 1000; ++i) cost.Observe(10 + i % 50, 0, 0.01);
  EXPECT_NEAR(cost.Predict(30, 0), 0.01, 0.003);
}

TEST(OutlookTest, ThePeakLiesWhereTheFirstOnesEnd) {
  Outlook outlook;
  outlook.Add(/*own=*/10, /*remaining=*/10, /*remaining_max=*/100);
  outlook.Add(10, 40, 100);
  // At 10: 20 + 20 = 40 tokens; then one ends, and the other reaches 50 alone.
  EXPECT_TRUE(outlook.Fits(0, 50));
  EXPECT_FALSE(outlook.Fits(0, 49));
  EXPECT_FALSE(outlook.Fits(1, 50));
  outlook.Add(10, 0, 100);
  EXPECT_TRUE(outlook.Fits(0, 50));
  EXPECT_TRUE(Outlook().Fits(50, 50));
}

TEST(OutputLengthsTest, GuessesFromWhatEndedLater) {
  OutputLengths lengths;
  EXPECT_EQ(lengths.Remaining(0, 500), 500);  // nothing is known
  for (int i = 1; i <= 100; ++i) lengths.Add(i);
  EXPECT_NEAR(static_cast<double>(lengths.Remaining(0, 500)), 80, 2);
  EXPECT_NEAR(static_cast<double>(lengths.Remaining(50, 500)), 40, 2);
  EXPECT_EQ(lengths.Remaining(0, 30), 30);
  EXPECT_EQ(lengths.Remaining(100, 500), 400);  // longer than any: the worst case
  for (int i = 0; i < 256; ++i) lengths.Add(7);
  EXPECT_EQ(lengths.Remaining(0, 500), 7);
}

}  // namespace
}  // namespace tessera
