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

// A plan of one row of `tokens` tokens that samples one.
cluster::v1::StepPlan Plan(uint64_t epoch, uint64_t step, uint32_t tokens) {
  cluster::v1::StepPlan plan;
  plan.set_epoch(epoch);
  plan.set_step(step);
  plan.add_sequence(1);
  plan.add_num_new_tokens(tokens);
  plan.add_output(cluster::v1::OUTPUT_SAMPLE);
  plan.add_num_choices(1);
  return plan;
}

constexpr absl::Time kStart = absl::UnixEpoch();

TEST(StepTrackerTest, IsDoneWhenEveryRankHasAnswered) {
  StepTracker tracker({1e6}, {2});
  tracker.Begin(Plan(1, 5, 1), kStart);
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
  tracker.Begin(Plan(2, 5, 1), kStart);
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
  tracker.Begin(Plan(1, 1, 1), kStart);
  ASSERT_TRUE(tracker.Add(0, Result(1, 1, 3), kStart).ok());
  auto done = tracker.Add(1, Result(1, 1, 4), kStart);
  EXPECT_THAT(std::string(done.status().message()), HasSubstr("different tokens"));
}

TEST(StepTrackerTest, ARanksErrorNamesIt) {
  StepTracker tracker({1e6}, {2});
  tracker.Begin(Plan(1, 1, 1), kStart);
  cluster::v1::StepResult broken = Result(1, 1, 3);
  broken.mutable_error()->set_message("out of paper");
  auto done = tracker.Add(1, broken, kStart);
  EXPECT_THAT(std::string(done.status().message()), HasSubstr("rank 1"));
  EXPECT_THAT(std::string(done.status().message()), HasSubstr("out of paper"));
}

TEST(StepTrackerTest, LateStepsNameTheSilentRank) {
  StepTracker tracker({1e6}, {2});
  tracker.Begin(Plan(1, 1, 1), kStart);
  ASSERT_TRUE(tracker.Add(0, Result(1, 1, 3), kStart).ok());
  EXPECT_TRUE(tracker.FindOverdue(kStart + kStepDeadlineMin - absl::Milliseconds(1)).empty());
  const auto overdue = tracker.FindOverdue(kStart + kStepDeadlineMin + absl::Milliseconds(1));
  ASSERT_EQ(overdue.size(), 1u);
  EXPECT_EQ(overdue[0].epoch, 1u);
  EXPECT_THAT(std::string(overdue[0].reason.message()), HasSubstr("rank 1"));
  tracker.Forget(0);
  EXPECT_TRUE(tracker.FindOverdue(absl::InfiniteFuture()).empty());
}

TEST(StepTrackerTest, AnswersThatDoNotFitThePlansRowsAreAnError) {
  StepTracker tracker({1e6}, {1});
  tracker.Begin(Plan(1, 1, 1), kStart);
  cluster::v1::StepResult no_rows = Result(1, 1, 3);
  no_rows.clear_num_sampled();
  EXPECT_THAT(std::string(tracker.Add(0, no_rows, kStart).status().message()),
              HasSubstr("other rows"));
  cluster::v1::StepResult two_tokens = Result(1, 1, 3);
  two_tokens.add_sampled(4);
  EXPECT_FALSE(tracker.Add(0, two_tokens, kStart).ok());
}

TEST(StepTrackerTest, QueuedStepsAreAnsweredInOrder) {
  StepTracker tracker({1e6}, {2});
  tracker.Begin(Plan(1, 1, 1), kStart);
  tracker.Begin(Plan(1, 2, 1), kStart);
  // One rank may be a whole step ahead of the other.
  EXPECT_FALSE(tracker.Add(0, Result(1, 1, 10), kStart)->has_value());
  EXPECT_FALSE(tracker.Add(0, Result(1, 2, 20), kStart)->has_value());
  const auto first = tracker.Add(1, Result(1, 1, 10), kStart);
  ASSERT_TRUE(first.ok() && first->has_value());
  EXPECT_EQ((*first)->rank_results[0].step(), 1u);
  tracker.Begin(Plan(1, 3, 1), kStart);
  const auto second = tracker.Add(1, Result(1, 2, 20), kStart);
  ASSERT_TRUE(second.ok() && second->has_value());
  EXPECT_EQ((*second)->rank_results[1].sampled(0), 20);
  EXPECT_FALSE(tracker.Add(1, Result(1, 2, 20), kStart)->has_value()) << "answered already";
  EXPECT_FALSE(tracker.Add(0, Result(1, 3, 30), kStart)->has_value());
  EXPECT_TRUE(tracker.Add(1, Result(1, 3, 30), kStart)->has_value());
}

TEST(StepTrackerTest, ARankThatLeavesOutAStepIsAnError) {
  StepTracker tracker({1e6}, {1});
  tracker.Begin(Plan(1, 1, 1), kStart);
  tracker.Begin(Plan(1, 2, 1), kStart);
  const auto skipped = tracker.Add(0, Result(1, 2, 3), kStart);
  EXPECT_THAT(std::string(skipped.status().message()), HasSubstr("left out step 1"));
}

TEST(StepTrackerTest, AQueuedStepsTimeBeginsWhenTheOneBeforeItWasAnswered) {
  StepTracker tracker({1e6}, {1});
  tracker.Begin(Plan(1, 1, 1), kStart);
  tracker.Begin(Plan(1, 2, 1), kStart);
  const absl::Time answered = kStart + kStepDeadlineMin - absl::Milliseconds(1);
  ASSERT_TRUE(tracker.Add(0, Result(1, 1, 3), answered)->has_value());
  EXPECT_TRUE(tracker.FindOverdue(answered + kStepDeadlineMin - absl::Milliseconds(1)).empty());
  const auto overdue = tracker.FindOverdue(answered + absl::Minutes(10));
  ASSERT_EQ(overdue.size(), 1u);
  EXPECT_THAT(std::string(overdue[0].reason.message()), HasSubstr("step 2"));
}

TEST(StepTrackerTest, TheMeasuredTimeOfAQueuedStepIsItsOwn) {
  StepTracker tracker({1e6}, {1});
  absl::Time now = kStart;
  tracker.Begin(Plan(1, 1, 10), now);
  for (uint64_t step = 1; step <= 40; ++step) {
    tracker.Begin(Plan(1, step + 1, 10), now);
    now += absl::Seconds(1);
    ASSERT_TRUE(tracker.Add(0, Result(1, step, 1), now)->has_value());
  }
  EXPECT_NEAR(absl::ToDoubleSeconds(tracker.Predict(0, 10)), 1.0, 0.01);
}

TEST(StepTrackerTest, DeadlinesFollowWhatStepsReallyTake) {
  StepTracker tracker({1e6}, {1});
  absl::Time now = kStart;
  for (uint64_t step = 1; step <= 40; ++step) {
    tracker.Begin(Plan(1, step, 10), now);
    now += absl::Seconds(1);
    ASSERT_TRUE(tracker.Add(0, Result(1, step, 1), now)->has_value());
  }
  EXPECT_NEAR(absl::ToDoubleSeconds(tracker.Predict(0, 10)), 1.0, 0.01);
  EXPECT_NEAR(absl::ToDoubleSeconds(tracker.Predict(0, 100)), 10.0, 0.1);
  tracker.Begin(Plan(1, 41, 10), now);
  EXPECT_TRUE(tracker.FindOverdue(now + absl::Seconds(39)).empty());
  EXPECT_EQ(tracker.FindOverdue(now + absl::Seconds(41)).size(), 1u);
}

}  // namespace
}  // namespace tessera
