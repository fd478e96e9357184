// What the cluster decides about steps and streams, without a wire.

#include "coordinator/cluster/cluster_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "tests/coordinator/cluster/cluster_fixtures.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace pb = cluster::v1;

constexpr uint64_t kTerm = 7;

// One model of two ranks; workers 1 and 2 hold them under epoch 1.
class ClusterCoreTest : public ::testing::Test {
 protected:
  ClusterCoreTest() : core_(Options()) {
    for (int i = 0; i < 2; ++i) {
      pb::WorkerMessage hello;
      *hello.mutable_hello() = HelloFrom(absl::StrCat("w", i));
      EXPECT_EQ(core_.Join(hello, clock_.Now(), actions_).value_or(0), i + 1u);
    }
    Start(1);
  }
  static GroupManagerOptions Options() {
    GroupManagerOptions options;
    options.term = kTerm;
    options.heartbeat_interval = absl::Hours(1);  // workers say nothing here
    options.models = {SmallModel("m", 2)};
    return options;
  }
  void Start(uint64_t epoch) {
    for (uint64_t worker : {1, 2}) {
      EXPECT_TRUE(core_.OnStepStream(worker, epoch, clock_.Now(), actions_).ok());
      core_.OnMessage(worker, ReadyMessage(epoch), clock_.Now(), actions_);
    }
    EXPECT_EQ(Take<GroupReady>(), 1);
  }
  // Number of events of this kind since the last call; reasons of losses go to `reason_`.
  template <typename E>
  int Take() {
    int count = 0;
    for (const Event& event : actions_.events) {
      count += std::holds_alternative<E>(event) ? 1 : 0;
      if (const auto* lost = std::get_if<GroupLost>(&event)) reason_ = lost->reason.ToString();
    }
    actions_ = GroupActions();
    return count;
  }
  static pb::StepPlan Heartbeat(uint64_t epoch, uint64_t step) {
    pb::StepPlan plan;
    plan.set_term(kTerm);
    plan.set_epoch(epoch);
    plan.set_step(step);
    return plan;
  }
  void Answer(uint64_t worker, const pb::StepPlan& plan, uint32_t rank, uint64_t term = kTerm) {
    pb::StepResult result;
    result.set_term(term);
    result.set_epoch(plan.epoch());
    result.set_step(plan.step());
    result.set_rank(rank);
    core_.OnStepResult(worker, plan.epoch(), result, clock_.Now(), actions_);
  }

  ManualClock clock_;
  GroupActions actions_;
  std::string reason_;
  ClusterCore core_;
};

TEST_F(ClusterCoreTest, AStepIsDoneWhenBothRanksHaveAnsweredIt) {
  const pb::StepPlan plan = Heartbeat(1, 1);
  EXPECT_THAT(core_.BeginStep(plan, clock_.Now()), ElementsAre(1, 2));
  Answer(2, plan, 1);
  EXPECT_EQ(Take<StepDone>(), 0);
  Answer(1, plan, 0);
  EXPECT_EQ(Take<StepDone>(), 1);
}

TEST_F(ClusterCoreTest, AnAnswerOfAnEarlierTermCountsForNothing) {
  const pb::StepPlan plan = Heartbeat(1, 1);
  core_.BeginStep(plan, clock_.Now());
  Answer(1, plan, 0);
  Answer(2, plan, 1, kTerm - 1);
  EXPECT_EQ(Take<StepDone>(), 0);
  clock_.Advance(kStepDeadlineMin);
  core_.Tick(clock_.Now(), actions_);
  EXPECT_EQ(Take<GroupLost>(), 1) << "the step is still waited for";
}

TEST_F(ClusterCoreTest, AnAnswerInTheNameOfAnotherRankLosesTheGroup) {
  const pb::StepPlan plan = Heartbeat(1, 1);
  core_.BeginStep(plan, clock_.Now());
  Answer(1, plan, 1);
  EXPECT_EQ(Take<GroupLost>(), 1);
  EXPECT_THAT(reason_, HasSubstr("damaged"));
}

TEST_F(ClusterCoreTest, ALostGroupsStepsAreForgottenAndItsNextEpochStartsClean) {
  const pb::StepPlan old = Heartbeat(1, 1);
  core_.BeginStep(old, clock_.Now());
  core_.BeginStep(Heartbeat(1, 2), clock_.Now());
  core_.OnStepStreamClosed(2, 1, clock_.Now(), actions_);
  EXPECT_EQ(Take<GroupLost>(), 1);
  EXPECT_THAT(reason_, HasSubstr("closed its step stream"));
  EXPECT_THAT(core_.BeginStep(Heartbeat(1, 3), clock_.Now()), IsEmpty()) << "made before the loss";
  Start(2);
  const pb::StepPlan plan = Heartbeat(2, 1);
  EXPECT_THAT(core_.BeginStep(plan, clock_.Now()), ElementsAre(1, 2));
  Answer(1, old, 0);
  Answer(2, old, 1);
  EXPECT_EQ(Take<StepDone>(), 0);
  core_.OnStepStreamClosed(1, 1, clock_.Now(), actions_);
  core_.OnUnreadableResult(1, 1, clock_.Now(), actions_);
  EXPECT_EQ(Take<GroupLost>(), 0) << "of the epoch before";
  Answer(1, plan, 0);
  Answer(2, plan, 1);
  EXPECT_EQ(Take<StepDone>(), 1);
}

TEST_F(ClusterCoreTest, ARankThatTakesNoPlansLosesTheGroup) {
  const pb::StepPlan plan = Heartbeat(1, 1);
  core_.BeginStep(plan, clock_.Now());
  core_.OnPlanNotTaken(plan, clock_.Now(), actions_);
  EXPECT_EQ(Take<GroupLost>(), 1);
  core_.OnPlanNotTaken(plan, clock_.Now(), actions_);
  EXPECT_EQ(Take<GroupLost>(), 0) << "it is lost already";
}

TEST_F(ClusterCoreTest, AClosedControlStreamLosesTheWorkersGroup) {
  core_.OnControlStreamClosed(1, clock_.Now(), actions_);
  EXPECT_EQ(Take<GroupLost>(), 1);
}

TEST_F(ClusterCoreTest, TheFirstMessageMustBeHello) {
  EXPECT_EQ(core_.Join(HeartbeatMessage(), clock_.Now(), actions_).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tessera
