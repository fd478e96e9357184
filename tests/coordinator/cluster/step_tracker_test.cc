// Answers, disagreement and lateness of steps.

#include "coordinator/cluster/step_tracker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tessera {
namespace {

using ::testing::HasSubstr;

cluster::v1::StepResult Result(uint64_t epoch, uint64_t step, int32_t token) {
  cluster::v1::StepResult result;
  result.set_epoch(epoch);
  result.set_step(step);
  result.add_num_sampled(1);
  result.add_sampled(token);
  return result;
}

constexpr absl::Time kStart = absl::UnixEpoch();

TEST(StepTrackerTest, IsDoneWhenEveryRankHasAnswered) {
  StepTracker tracker({1e6}, {2});
  tracker.Begin(0, 1, 5, 1, kStart);
  auto first = tracker.Add(1, Result(1, 5, 42), kStart);
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE(first->has_value());
  auto second = tracker.Add(0, Result(1, 5, 42), kStart);
  ASSERT_TRUE(second.ok());
  ASSERT_TRUE(second->has_value());
  EXPECT_EQ((*second)->rank_results.size(), 2u);
  EXPECT_EQ((*second)->rank_results[0].sampled(0), 42);
}

TEST(StepTrackerTest, StaleAndDoubleAnswersCountForNothing) {
  StepTracker tracker({1e6}, {2});
  tracker.Begin(0, 2, 5, 1, kStart);
  for (const auto& stale : {Result(1, 5, 1), Result(2, 4, 1), Result(2, 6, 1)}) {
    auto added = tracker.Add(0, stale, kStart);
    ASSERT_TRUE(added.ok());
    EXPECT_FALSE(added->has_value());
  }
  EXPECT_FALSE(tracker.Add(0, Result(2, 5, 1), kStart)->has_value());
  EXPECT_FALSE(tracker.Add(0, Result(2, 5, 1), kStart)->has_value()) << "the same rank again";
  EXPECT_FALSE(tracker.Add(7, Result(2, 5, 1), kStart)->has_value()) << "no such rank";
  EXPECT_TRUE(tracker.Add(1, Result(2, 5, 1), kStart)->has_value());
}

TEST(StepTrackerTest, RanksThatDisagreeAreAnError) {
  StepTracker tracker({1e6}, {2});
  tracker.Begin(0, 1, 1, 1, kStart);
  ASSERT_TRUE(tracker.Add(0, Result(1, 1, 3), kStart).ok());
  auto done = tracker.Add(1, Result(1, 1, 4), kStart);
  EXPECT_THAT(std::string(done.status().message()), HasSubstr("different tokens"));
}

TEST(StepTrackerTest, ARanksErrorNamesIt) {
  StepTracker tracker({1e6}, {2});
  tracker.Begin(0, 1, 1, 1, kStart);
  cluster::v1::StepResult broken = Result(1, 1, 3);
  broken.mutable_error()->set_message("out of paper");
  auto done = tracker.Add(1, broken, kStart);
  EXPECT_THAT(std::string(done.status().message()), HasSubstr("rank 1"));
  EXPECT_THAT(std::string(done.status().message()), HasSubstr("out of paper"));
}

TEST(StepTrackerTest, LateStepsNameTheSilentRank) {
  StepTracker tracker({1e6}, {2});
  tracker.Begin(0, 1, 1, 1, kStart);
  ASSERT_TRUE(tracker.Add(0, Result(1, 1, 3), kStart).ok());
  EXPECT_TRUE(tracker.FindOverdue(kStart + kStepDeadlineMin - absl::Milliseconds(1)).empty());
  const auto overdue = tracker.FindOverdue(kStart + kStepDeadlineMin + absl::Milliseconds(1));
  ASSERT_EQ(overdue.size(), 1u);
  EXPECT_EQ(overdue[0].epoch, 1u);
  EXPECT_THAT(std::string(overdue[0].reason.message()), HasSubstr("rank 1"));
  tracker.Forget(0);
  EXPECT_TRUE(tracker.FindOverdue(absl::InfiniteFuture()).empty());
}

TEST(StepTrackerTest, DeadlinesFollowWhatStepsReallyTake) {
  StepTracker tracker({1e6}, {1});
  absl::Time now = kStart;
  for (uint64_t step = 1; step <= 40; ++step) {
    tracker.Begin(0, 1, step, 10, now);
    now += absl::Seconds(1);
    ASSERT_TRUE(tracker.Add(0, Result(1, step, 1), now)->has_value());
  }
  EXPECT_NEAR(absl::ToDoubleSeconds(tracker.Predict(0, 10)), 1.0, 0.01);
  EXPECT_NEAR(absl::ToDoubleSeconds(tracker.Predict(0, 100)), 10.0, 0.1);
  tracker.Begin(0, 1, 41, 10, now);
  EXPECT_TRUE(tracker.FindOverdue(now + absl::Seconds(39)).empty());
  EXPECT_EQ(tracker.FindOverdue(now + absl::Seconds(41)).size(), 1u);
}

}  // namespace
}  // namespace tessera
