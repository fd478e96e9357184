// Two plans in flight: tokens that nobody knows yet, ends that are noticed late, text that comes
// later still.

#include <string>
#include <vector>

#include "tests/coordinator/sched/scheduler_fixture.h"

namespace tessera::testing {
namespace {

class SchedulerOverlapTest : public SchedulerTest {
 protected:
  SchedulerOverlapTest() { options_.plans_in_flight_max = 2; }
};

TEST_F(SchedulerOverlapTest, TheNextStepIsSentBeforeTheTokenIsKnown) {
  Ready(0);
  const RequestId id = Add(5, 4);
  const std::vector<StepPlan> plans = Schedule();
  ASSERT_EQ(plans.size(), 2u);
  EXPECT_EQ(plans[0].token_source(0), cluster::v1::TOKENS_EXPLICIT);
  EXPECT_EQ(plans[1].token_source(0), cluster::v1::TOKENS_LAST_SAMPLED);
  EXPECT_EQ(plans[1].source_step(0), plans[0].step());
  EXPECT_EQ(plans[1].source_row(0), 0u);
  EXPECT_EQ(plans[1].start_position(0), 5u);
  EXPECT_EQ(plans[1].tokens_size(), 0);
  EXPECT_TRUE(Schedule().empty());  // two are in flight
  Finish();
  EXPECT_EQ(Schedule().size(), 1u);
  RunToEnd();
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerOverlapTest, ChunksOfAPromptFollowEachOther) {
  Ready(0);
  const RequestId id = Add(25, 3);
  const std::vector<StepPlan> plans = Schedule();
  ASSERT_EQ(plans.size(), 2u);
  EXPECT_EQ(plans[0].start_position(0), 0u);
  EXPECT_EQ(plans[1].start_position(0), 10u);
  RunToEnd();
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerOverlapTest, LengthIsForeseenAndNothingIsComputedPastIt) {
  Ready(0);
  const RequestId id = Add(5, 4);
  RunToEnd();
  EXPECT_EQ(tokens_[id].size(), 4u);
  EXPECT_EQ(ranks_[0]->tokens_computed(), 8);  // the last token is never computed
  EXPECT_EQ(scheduler().Stats().models[0].overrun_tokens, 0u);
}

TEST_F(SchedulerOverlapTest, AStopTokenIsNoticedAStepLateAndTheOverrunIsNeverSeen) {
  Ready(0);
  auto request = Make(5, 50);
  const std::vector<int32_t> free_run = ExpectedAnswer(*request, 100).tokens;
  request->sampling.stop_token_ids = {free_run[3]};
  const RequestId id = Add(request);
  RunToEnd();
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
  EXPECT_EQ(ends_.at(id).reason, FinishReason::kStop);
  while (ranks_[0]->in_flight()) Finish();
  EXPECT_EQ(scheduler().Stats().models[0].overrun_tokens, 1u);
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_free[0], 100);
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerOverlapTest, AGroupThatDiesWithTwoPlansOutLosesNothing) {
  Ready(0);
  const RequestId id = Add(7, 12);
  for (int i = 0; i < 4; ++i) {
    Schedule();
    Finish();
  }
  Schedule();
  Lose(0, 1);
  Ready(0, 2);
  RunToEnd();
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
  EXPECT_GT(scheduler().Stats().models[0].recomputed_tokens, 0u);
}

TEST_F(SchedulerOverlapTest, AnAnswerThatComesBeforeItsTurnChangesNothing) {
  Ready(0);
  const RequestId id = Add(5, 6);
  Schedule();
  const StepDone first = ranks_[0]->Finish();
  const StepDone second = ranks_[0]->Finish();
  Apply(second);
  EXPECT_EQ(scheduler().Stats().groups[0].steps, 0u);
  Apply(first);
  Apply(second);
  EXPECT_EQ(scheduler().Stats().groups[0].steps, 2u);
  RunToEnd();
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerOverlapTest, TheTextSideDecidesWhereARequestWithStopStringsEnds) {
  Ready(0);
  auto request = Make(5, 6);
  request->sampling.has_stop_strings = true;
  const RequestId stopped = Add(request);
  request = Make(5, 6);
  request->sampling.has_stop_strings = true;
  const RequestId whole = Add(request);
  RunToEnd();
  while (ranks_[0]->in_flight()) Finish();
  // Both have ended by length; neither is finished before the text side has read them.
  EXPECT_TRUE(ends_.empty());
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_free[0], 100);
  Apply(TextStop{.request = stopped, .choice = 0, .index = 2});
  Apply(TextEnd{.request = whole, .choice = 0});
  Apply(TextEnd{.request = whole, .choice = 0});
  TakeUpdates();
  EXPECT_EQ(ends_.at(stopped).reason, FinishReason::kStop);
  EXPECT_EQ(ends_.at(stopped).output_tokens, 3u);
  EXPECT_EQ(ends_.at(whole).reason, FinishReason::kLength);
  EXPECT_EQ(ends_.at(whole).output_tokens, 6u);
}

TEST_F(SchedulerOverlapTest, AnEndedRequestThatWaitsForItsTextHasNoDeadlineButCanBeCancelled) {
  Ready(0);
  auto request = Make(5, 2);
  request->sampling.has_stop_strings = true;
  request->deadline = now_ + absl::Seconds(1);
  const RequestId id = Add(request);
  RunToEnd();
  now_ += absl::Seconds(2);
  Schedule();
  EXPECT_TRUE(ends_.empty());
  Apply(Cancel{.request = id});
  TakeUpdates();
  EXPECT_EQ(ends_.at(id).reason, FinishReason::kCancelled);
}

}  // namespace
}  // namespace tessera::testing
