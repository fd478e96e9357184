// What the scheduler does with groups: heartbeats, losses, errors, stale news, load.

#include <string>
#include <vector>

#include "tests/coordinator/sched/scheduler_fixture.h"

namespace tessera::testing {
namespace {

using SchedulerGroupsTest = SchedulerTest;

TEST_F(SchedulerGroupsTest, IdleGroupsGetHeartbeats) {
  Ready(0);
  EXPECT_EQ(Schedule().size(), 0u);
  EXPECT_EQ(scheduler().NextWakeup(), now_ + options_.heartbeat_interval);
  now_ += options_.heartbeat_interval;
  EXPECT_EQ(ScheduleOne().sequence_size(), 0);
  EXPECT_EQ(scheduler().NextWakeup(), absl::InfiniteFuture());  // the answer will come
  now_ += absl::Milliseconds(3);
  Finish();
  EXPECT_EQ(scheduler().Stats().groups[0].last_progress, now_);
  EXPECT_EQ(scheduler().Stats().groups[0].steps, 1u);
}

TEST_F(SchedulerGroupsTest, ALostGroupsSequencesContinueElsewhereWithoutRepeating) {
  Ready(0);
  const RequestId first = Add(7, 12);
  const RequestId second = Add(15, 12);
  for (int i = 0; i < 4; ++i) {
    ScheduleOne();
    Finish();
  }
  ScheduleOne();
  const size_t told = tokens_[first].size();
  EXPECT_GT(told, 0u);
  Lose(0, 1);
  EXPECT_EQ(scheduler().Stats().waiting, 2);
  ranks_.clear();
  const RequestId late = Add(2, 3);
  Ready(1);
  const StepPlan plan = ScheduleOne();
  EXPECT_EQ(plan.resets(0).num_prompt_tokens(), 7u);  // prompt and output keep their border
  EXPECT_EQ(plan.start_position(0), 0u);
  RunToEnd();
  for (RequestId id : {first, second, late}) EXPECT_EQ(tokens_[id], Expected(id).tokens);
  EXPECT_EQ(ranks_[1]->first_rows(), (std::vector<std::string>{"1", "2", "3"}));
}

TEST_F(SchedulerGroupsTest, WithoutAnyGroupTheyWaitForTheNextEpochOrTheirDeadline) {
  Ready(0);
  const RequestId id = Add(7, 12);
  auto hurried = Make(7, 12);
  hurried->deadline = now_ + absl::Seconds(3);
  Add(hurried);
  ScheduleOne();
  Lose(0, 1);
  EXPECT_EQ(Schedule().size(), 0u);
  now_ += absl::Seconds(3);
  EXPECT_EQ(Schedule().size(), 0u);
  EXPECT_EQ(ends_.at(hurried->id).reason, FinishReason::kDeadline);
  Ready(0, 2);
  RunToEnd();
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerGroupsTest, StaleNewsChangesNothing) {
  Ready(0);
  Add(7, 12);
  ScheduleOne();
  const StepDone old = ranks_[0]->Finish();
  Lose(0, 1);
  Ready(0, 2);
  ScheduleOne();
  Apply(old);  // of an older epoch
  Lose(0, 1);  // likewise
  Apply(GroupReady{.group = 0, .epoch = 2, .model = 0, .num_blocks = {5}});
  EXPECT_EQ(scheduler().Stats().running, 1);
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_total[0], 100);
  const StepDone done = ranks_[0]->Finish();
  StepDone other_term = done;
  other_term.rank_results[0].set_term(99);
  Apply(other_term);
  EXPECT_EQ(scheduler().Stats().groups[0].steps, 0u);
  Apply(done);
  Apply(done);
  EXPECT_EQ(scheduler().Stats().groups[0].steps, 1u);
  RunToEnd();
  EXPECT_EQ(tokens_[1], Expected(1).tokens);
}

TEST_F(SchedulerGroupsTest, AnErrorOfAnyRankTakesTheGroupOutUntilItsNextEpoch) {
  Ready(0);
  const RequestId id = Add(7, 12);
  ScheduleOne();
  StepDone done = ranks_[0]->Finish();
  done.rank_results[1].mutable_error()->set_message("out of memory");
  Apply(done);
  EXPECT_FALSE(scheduler().Stats().groups[0].ready);
  EXPECT_EQ(Schedule().size(), 0u);
  Lose(0, 1);
  Ready(0, 2);
  RunToEnd();
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerGroupsTest, AnAnswerOfTheWrongShapeTakesTheGroupOut) {
  Ready(0);
  Add(7, 12);
  ScheduleOne();
  StepDone done = ranks_[0]->Finish();
  done.rank_results[0].clear_sampled();
  Apply(done);
  EXPECT_FALSE(scheduler().Stats().groups[0].ready);
  EXPECT_EQ(scheduler().Stats().waiting, 1);
}

TEST_F(SchedulerGroupsTest, ARowThatCannotBeSampledEndsItsRequestOnly) {
  Ready(0);
  const RequestId bad = Add(7, 12);
  const RequestId good = Add(7, 12);
  ScheduleOne();
  StepDone done = ranks_[0]->Finish();
  for (auto& result : done.rank_results) result.set_sampled(0, -1);
  Apply(done);
  RunToEnd();
  EXPECT_EQ(ends_.at(bad).reason, FinishReason::kError);
  EXPECT_EQ(ends_.at(bad).error.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ends_.at(bad).output_tokens, 0u);
  EXPECT_EQ(tokens_[good], Expected(good).tokens);
}

TEST_F(SchedulerGroupsTest, TheLeastLoadedGroupTakesTheNextOne) {
  Ready(0);
  Ready(1);
  Ready(2, 1, 100, /*model=*/1);
  Add(30, 5);
  Add(3, 5);
  Add(3, 5);
  const std::vector<StepPlan> plans = Schedule();
  ASSERT_EQ(plans.size(), 2u);  // the third group serves another model
  EXPECT_EQ(plans[0].sequence_size(), 1);
  EXPECT_EQ(plans[1].sequence_size(), 2);
  Add(Make(4, 2, /*model=*/1));
  EXPECT_EQ(ScheduleOne().group(), 2u);
  EXPECT_EQ(scheduler().Stats().models[0].running, 3);
  EXPECT_EQ(scheduler().Stats().models[1].running, 1);
}

TEST_F(SchedulerGroupsTest, ASequenceThatOnlyALostGroupCanHoldDoesNotBlockTheOthers) {
  Ready(0, 1, 20);
  Ready(1, 1, 5);
  const RequestId large = Add(30, 10);
  Schedule();
  Lose(0, 1);
  const RequestId small = Add(5, 5);
  EXPECT_EQ(ScheduleOne().group(), 1u);
  while (!ends_.contains(small)) {
    Finish(1);
    Schedule();
  }
  EXPECT_FALSE(ends_.contains(large));
  ranks_.erase(0);
  Ready(0, 2, 20);
  RunToEnd();
  EXPECT_EQ(tokens_[large], Expected(large).tokens);
}

TEST_F(SchedulerGroupsTest, WhenTheDeploymentShrinksWhatFitsNowhereEndsWithAReason) {
  Ready(0, 1, 20);
  const RequestId started = Add(30, 10);
  ScheduleOne();
  const RequestId queued = Add(60, 15);
  Lose(0, 1);
  Ready(0, 2, 5);
  TakeUpdates();
  EXPECT_EQ(ends_.at(started).reason, FinishReason::kError);
  EXPECT_EQ(ends_.at(started).error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ends_.at(queued).reason, FinishReason::kRejected);
  EXPECT_EQ(ends_.at(queued).error.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(scheduler().Stats().waiting, 0);
}

}  // namespace
}  // namespace tessera::testing
