// Models whose positions turn by other factors in sequences of more than so many tokens: who grows
// beyond is computed again from its beginning, and blocks of the two kinds are never mixed.

#include <vector>

#include "tests/coordinator/sched/scheduler_fixture.h"

namespace tessera::testing {
namespace {

class SchedulerRopeTest : public SchedulerTest {
 protected:
  SchedulerRopeTest() {
    options_.plans_in_flight_max = 2;
    options_.models[0].rope_switch = 12;
  }
  // Runs to the end and returns, by plan, whether its first row's sequence turned by long factors.
  std::vector<StepPlan> RunAndCollect() {
    std::vector<StepPlan> plans;
    for (int i = 0; i < 200 && scheduler().Stats().waiting + scheduler().Stats().running > 0; ++i) {
      for (StepPlan& plan : Schedule()) plans.push_back(std::move(plan));
      if (ranks_[0]->in_flight()) Finish();
    }
    return plans;
  }
  static std::vector<bool> Resets(const std::vector<StepPlan>& plans) {
    std::vector<bool> is_long;
    for (const StepPlan& plan : plans) {
      for (const auto& reset : plan.resets()) is_long.push_back(reset.long_rope());
    }
    return is_long;
  }
};

TEST_F(SchedulerRopeTest, WhoGrowsBeyondIsComputedAgainOnce) {
  Ready(0);
  const RequestId id = Add(9, 10);
  const std::vector<StepPlan> plans = RunAndCollect();
  EXPECT_EQ(Resets(plans), (std::vector<bool>{false, true}));
  bool is_long = false;
  for (const StepPlan& plan : plans) {
    for (const auto& reset : plan.resets()) is_long = reset.long_rope();
    for (int row = 0; row < plan.sequence_size(); ++row) {
      const uint32_t end = plan.start_position(row) + plan.num_new_tokens(row);
      EXPECT_TRUE(is_long || end <= 12u) << end;
    }
  }
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
  EXPECT_EQ(scheduler().Stats().models[0].recomputed_tokens, 12u);
  EXPECT_EQ(scheduler().Stats().models[0].preemptions, 0u);
  EXPECT_EQ(scheduler().Stats().models[0].overrun_tokens, 0u);
}

TEST_F(SchedulerRopeTest, WhoseLastTokenStandsOnTheBorderIsNot) {
  Ready(0);
  const RequestId id = Add(9, 4);  // 13 tokens, the last one is never computed
  EXPECT_EQ(Resets(RunAndCollect()), std::vector<bool>{false});
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerRopeTest, APromptOfExactlySoManyTokensBeginsShort) {
  Ready(0);
  const RequestId border = Add(12, 3);
  EXPECT_EQ(Resets(RunAndCollect()), (std::vector<bool>{false, true}));
  const RequestId beyond = Add(13, 3);
  EXPECT_EQ(Resets(RunAndCollect()), std::vector<bool>{true});
  EXPECT_EQ(tokens_[border], Expected(border).tokens);
  EXPECT_EQ(tokens_[beyond], Expected(beyond).tokens);
}

TEST_F(SchedulerRopeTest, ShortAndLongBlocksAreNotFoundForEachOther) {
  Ready(0);
  const auto with_tokens = [&](size_t count) {
    auto request = Make(count, 1);
    for (size_t i = 0; i < count; ++i) request->prompt[i] = static_cast<int32_t>(i + 1);
    return request;
  };
  Add(with_tokens(12));
  RunToEnd();
  const RequestId longer = Add(with_tokens(14));
  RunToEnd();
  EXPECT_EQ(ends_.at(longer).cached_tokens, 0u);
  const RequestId again = Add(with_tokens(15));
  RunToEnd();
  EXPECT_EQ(ends_.at(again).cached_tokens, 12u);
  const RequestId shorter = Add(with_tokens(10));
  RunToEnd();
  EXPECT_EQ(ends_.at(shorter).cached_tokens, 8u);
}

TEST_F(SchedulerRopeTest, ChoicesThatBeginBehindTheBorderAllTurnLong) {
  Ready(0);
  auto request = Make(12, 5);
  request->sampling.num_choices = 3;
  const RequestId id = Add(request);
  EXPECT_EQ(Resets(RunAndCollect()), (std::vector<bool>{false, true, true, true}));
  for (uint32_t choice = 0; choice < 3; ++choice) {
    EXPECT_EQ((tokens_of_[{id, choice}]), Expected(id, choice).tokens);
  }
}

TEST_F(SchedulerRopeTest, AGroupThatIsLostAtTheBorderChangesNothing) {
  Ready(0);
  const RequestId id = Add(9, 10);
  for (int step = 0; step < 4; ++step) {  // the 13th token is there, and is to be computed long
    Schedule();
    Finish();
  }
  Lose(0, 1);
  Ready(0, 2);
  EXPECT_EQ(Resets(RunAndCollect()), std::vector<bool>{true});
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

}  // namespace
}  // namespace tessera::testing
