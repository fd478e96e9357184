// What the scheduler promises to requests, one promise per test.

#include <string>
#include <vector>

#include "tests/coordinator/sched/scheduler_fixture.h"

namespace tessera::testing {
namespace {

std::vector<uint32_t> Lengths(const StepPlan& plan) {
  return {plan.num_new_tokens().begin(), plan.num_new_tokens().end()};
}

TEST_F(SchedulerTest, PromptsAreComputedInChunksAndOnlyTheLastOneSamples) {
  Ready(0);
  Add(25, 3);
  StepPlan plan = ScheduleOne();
  EXPECT_EQ(Lengths(plan), (std::vector<uint32_t>{10}));
  EXPECT_EQ(plan.output(0), cluster::v1::OUTPUT_NONE);
  EXPECT_EQ(plan.resets_size(), 1);
  EXPECT_EQ(plan.resets(0).num_prompt_tokens(), 25u);
  EXPECT_EQ(plan.num_new_blocks(0), 3u);
  Finish();
  plan = ScheduleOne();
  EXPECT_EQ(plan.start_position(0), 10u);
  EXPECT_EQ(plan.resets_size(), 0);
  EXPECT_EQ(plan.output(0), cluster::v1::OUTPUT_NONE);
  Finish();
  plan = ScheduleOne();
  EXPECT_EQ(Lengths(plan), (std::vector<uint32_t>{5}));
  EXPECT_EQ(plan.output(0), cluster::v1::OUTPUT_SAMPLE);
  Finish();
  plan = ScheduleOne();
  EXPECT_EQ(plan.start_position(0), 25u);
  EXPECT_EQ(plan.tokens(0), tokens_[1][0]);
  Finish();
  RunToEnd();
  EXPECT_EQ(tokens_[1], Expected(1).tokens);
  EXPECT_EQ(ends_.at(1).reason, FinishReason::kLength);
  EXPECT_EQ(ends_.at(1).output_tokens, 3u);
  EXPECT_EQ(ends_.at(1).first_scheduled, now_);
}

TEST_F(SchedulerTest, DecodeRowsComeFirstAndPromptsShareWhatIsLeftInOrder) {
  options_.tokens_max = 16;
  Ready(0);
  Add(3, 20);
  ScheduleOne();
  Finish();
  Add(12, 5);
  Add(12, 5);
  const StepPlan plan = ScheduleOne();
  EXPECT_EQ(Lengths(plan), (std::vector<uint32_t>{1, 10, 5}));
  EXPECT_EQ(plan.sequence(0), 1u);
  EXPECT_EQ(plan.sequence(1), 2u);
  EXPECT_EQ(plan.sequence(2), 3u);
}

TEST_F(SchedulerTest, AtMostOnePlanPerGroupIsInFlight) {
  Ready(0);
  Add(4, 4);
  EXPECT_EQ(Schedule().size(), 1u);
  EXPECT_EQ(Schedule().size(), 0u);
  Finish();
  EXPECT_EQ(Schedule().size(), 1u);
}

TEST_F(SchedulerTest, NobodyOvertakesTheOneWhoWaitsForRoom) {
  Ready(0, 1, 10);  // 40 positions
  Add(20, 5);       // 24 positions: 6 blocks
  Add(20, 5);       // has to wait
  Add(2, 3);        // would fit
  ScheduleOne();
  EXPECT_EQ(scheduler().Stats().waiting, 2);
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_free[0], 7);  // its first chunk has three
  RunToEnd();
  EXPECT_EQ(ranks_[0]->first_rows(), (std::vector<std::string>{"1", "2", "3"}));
  for (RequestId id = 1; id <= 3; ++id) EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerTest, RowsMaxBoundsWhoRuns) {
  options_.rows_max = 2;
  Ready(0);
  for (int i = 0; i < 4; ++i) Add(3, 5);
  EXPECT_EQ(ScheduleOne().sequence_size(), 2);
  EXPECT_EQ(scheduler().Stats().running, 2);
  EXPECT_EQ(scheduler().Stats().waiting, 2);
  RunToEnd();
  EXPECT_EQ(ends_.size(), 4u);
}

TEST_F(SchedulerTest, WhatCanNeverRunIsRefusedWithItsReason) {
  Ready(0, 1, 10);
  struct Case {
    std::shared_ptr<Request> request;
    absl::StatusCode code;
    std::string text;
  };
  std::vector<Case> cases = {
      {Make(30, 12), absl::StatusCode::kInvalidArgument,
       "the KV cache of this deployment holds 40"},
      {Make(100, 1), absl::StatusCode::kInvalidArgument, "the context holds 100"},
      {Make(0, 1), absl::StatusCode::kInvalidArgument, "no tokens"},
      {Make(5, 0), absl::StatusCode::kInvalidArgument, "max_tokens"},
      {Make(5, 1), absl::StatusCode::kInvalidArgument, "n = 9 choices; this server gives 1 to 8"},
      {Make(5, 1, /*model=*/7), absl::StatusCode::kNotFound, "model number 7"},
  };
  cases[4].request->sampling.num_choices = 9;
  for (const Case& c : cases) {
    const RequestId id = Add(c.request);
    TakeUpdates();
    ASSERT_TRUE(ends_.contains(id)) << c.text;
    EXPECT_EQ(ends_.at(id).reason, FinishReason::kRejected);
    EXPECT_EQ(ends_.at(id).error.code(), c.code) << ends_.at(id).error;
    EXPECT_NE(ends_.at(id).error.message().find(c.text), absl::string_view::npos)
        << ends_.at(id).error;
    EXPECT_EQ(ends_.at(id).first_scheduled, absl::InfiniteFuture());
  }
  Add(30, 11);  // 40 positions: exactly
  RunToEnd();
  EXPECT_EQ(tokens_[next_id_ - 1].size(), 11u);
}

TEST_F(SchedulerTest, AFullQueueAndADrainingServerRefuse) {
  for (int i = 0; i < 4; ++i) Add(3, 3);
  const RequestId too_many = Add(3, 3);
  TakeUpdates();
  EXPECT_EQ(ends_.at(too_many).error.code(), absl::StatusCode::kResourceExhausted);
  Apply(Drain{});
  const RequestId late = Add(3, 3);
  TakeUpdates();
  EXPECT_EQ(ends_.at(late).error.code(), absl::StatusCode::kUnavailable);
  Ready(0);
  RunToEnd();  // what was taken finishes
  for (RequestId id = 1; id <= 4; ++id) EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerTest, AStopTokenEndsTheAnswerAndIsItsLastToken) {
  Ready(0);
  auto request = Make(5, 50);
  const std::vector<int32_t> free_run = ExpectedAnswer(*request, 100).tokens;
  request->sampling.stop_token_ids = {-5, free_run[6]};
  Add(request);
  RunToEnd();
  EXPECT_EQ(tokens_[1], Expected(1).tokens);
  EXPECT_LE(tokens_[1].size(), 7u);
  EXPECT_EQ(ends_.at(1).reason, FinishReason::kStop);
}

TEST_F(SchedulerTest, TheContextEndsTheAnswer) {
  Ready(0);
  Add(95, 50);
  RunToEnd();
  EXPECT_EQ(tokens_[1].size(), 5u);
  EXPECT_EQ(ends_.at(1).reason, FinishReason::kLength);
}

TEST_F(SchedulerTest, CancelFreesBlocksWhenThePlanInFlightIsOver) {
  Ready(0);
  const RequestId id = Add(9, 8);
  ScheduleOne();
  Apply(Cancel{.request = id});
  TakeUpdates();
  EXPECT_EQ(ends_.at(id).reason, FinishReason::kCancelled);
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_free[0], 97);  // three are named by the plan
  Finish();
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_free[0], 100);
  EXPECT_TRUE(tokens_[id].empty());
  now_ += options_.heartbeat_interval;
  const StepPlan beat = ScheduleOne();
  EXPECT_EQ(beat.sequence_size(), 0);
  ASSERT_EQ(beat.finished_sequences_size(), 1);
  EXPECT_EQ(beat.finished_sequences(0), 1u);
}

TEST_F(SchedulerTest, CancelWhileWaitingAndOfStrangersIsHarmless) {
  const RequestId id = Add(9, 8);
  Apply(Cancel{.request = id});
  Apply(Cancel{.request = id});
  Apply(Cancel{.request = 99});
  Apply(TextStop{.request = id});
  TakeUpdates();
  EXPECT_EQ(ends_.at(id).output_tokens, 0u);
  Ready(0);
  EXPECT_EQ(Schedule().size(), 0u);
}

TEST_F(SchedulerTest, ATextStopCountsUpToItsTokenAndDropsTheOverrun) {
  Ready(0);
  const RequestId id = Add(5, 50);
  for (int i = 0; i < 5; ++i) {
    ScheduleOne();
    Finish();
  }
  ScheduleOne();
  Apply(TextStop{.request = id, .choice = 0, .index = 2});
  Finish();
  EXPECT_EQ(tokens_[id].size(), 5u);  // those were out; the sixth is not told
  EXPECT_EQ(ends_.at(id).reason, FinishReason::kStop);
  EXPECT_EQ(ends_.at(id).output_tokens, 3u);
}

TEST_F(SchedulerTest, ATextStopPastTheTokensIsAnErrorOfThatRequestOnly) {
  Ready(0);
  const RequestId id = Add(5, 50);
  const RequestId other = Add(5, 6);
  ScheduleOne();
  Finish();
  Apply(TextStop{.request = id, .choice = 0, .index = 1});
  RunToEnd();
  EXPECT_EQ(ends_.at(id).reason, FinishReason::kError);
  EXPECT_EQ(ends_.at(id).error.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(tokens_[other], Expected(other).tokens);
}

TEST_F(SchedulerTest, DeadlinesEndWaitingAndRunningRequests) {
  auto waits = Make(5, 50);
  waits->deadline = now_ + absl::Seconds(1);
  Add(waits);
  EXPECT_EQ(scheduler().NextWakeup(), waits->deadline);
  now_ = waits->deadline;
  Schedule();
  EXPECT_EQ(ends_.at(waits->id).reason, FinishReason::kDeadline);
  Ready(0);
  auto runs = Make(5, 50);
  runs->deadline = now_ + absl::Seconds(2);
  Add(runs);
  ScheduleOne();
  Finish();
  now_ = runs->deadline;
  EXPECT_EQ(Schedule().size(), 1u);  // the heartbeat that is due too
  EXPECT_EQ(ends_.at(runs->id).reason, FinishReason::kDeadline);
  EXPECT_EQ(ends_.at(runs->id).output_tokens, 1u);
}

TEST_F(SchedulerTest, EveryFinishReasonHasItsName) {
  EXPECT_STREQ(FinishReasonName(FinishReason::kStop), "stop");
  EXPECT_STREQ(FinishReasonName(FinishReason::kLength), "length");
  EXPECT_STREQ(FinishReasonName(FinishReason::kCancelled), "cancelled");
  EXPECT_STREQ(FinishReasonName(FinishReason::kDeadline), "deadline");
  EXPECT_STREQ(FinishReasonName(FinishReason::kRejected), "rejected");
  EXPECT_STREQ(FinishReasonName(FinishReason::kError), "error");
}

}  // namespace
}  // namespace tessera::testing
