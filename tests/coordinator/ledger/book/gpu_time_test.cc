// The time of a group's GPUs beside the work that rows share.

#include "coordinator/ledger/book/gpu_time.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace tessera {
namespace {

using cluster::v1::DeviceInterval;
using cluster::v1::StepPlan;
using cluster::v1::StepResult;

constexpr uint64_t kSecond = 1'000'000'000;

class GpuTimeTest : public ::testing::Test {
 protected:
  void Ready(uint64_t epoch, absl::Duration loading, uint32_t ranks = 2) {
    time_.OnReady(GroupReady{.group = 0,
                             .epoch = epoch,
                             .model = 3,
                             .num_blocks = {1},
                             .num_ranks = ranks,
                             .assigned = now_ - loading},
                  now_);
    epoch_ = epoch;
    step_ = 0;
  }
  void Send() {
    StepPlan plan;
    plan.set_epoch(epoch_);
    plan.set_step(++step_);
    time_.OnPlan(plan, now_);
  }
  // The oldest plan is answered: what each rank says of the gap before it and of the step, s.
  void Answer(uint64_t step, uint32_t rows, std::vector<std::pair<double, double>> ranks,
              double work) {
    StepDone done;
    for (const auto& [gap, took] : ranks) {
      StepResult& result = done.rank_results.emplace_back();
      result.set_epoch(epoch_);
      result.set_step(step);
      result.set_rows(rows);
      result.set_idle_before_ns(static_cast<uint64_t>(gap * kSecond));
      result.set_step_ns(static_cast<uint64_t>(took * kSecond));
    }
    work_ += work;
    time_.OnStepDone(done, work_, now_);
  }
  void Pass(double seconds) { now_ += absl::Seconds(seconds); }
  double Take(GpuKind kind) {
    const GpuSeconds spent = time_.Take(now_);
    for (size_t i = 0; i < kNumGpuKinds; ++i) all_[i] += spent[i];
    const double seconds = all_[static_cast<size_t>(kind)];
    all_[static_cast<size_t>(kind)] = 0;
    return seconds;
  }
  // What was not asked for by name.
  double Rest() {
    Take(GpuKind::kPadding);
    return std::accumulate(all_.begin(), all_.end(), 0.0);
  }

  GpuTime time_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  uint64_t epoch_ = 0;
  uint64_t step_ = 0;
  double work_ = 0;
  GpuSeconds all_ = {};
};

TEST_F(GpuTimeTest, NamesAreThoseOfTheMetrics) {
  EXPECT_STREQ(GpuKindName(GpuKind::kPrefill), "prefill");
  EXPECT_STREQ(GpuKindName(GpuKind::kIdleNone), "idle_none");
}

TEST_F(GpuTimeTest, LoadingCountsFromTheFirstAssignment) {
  EXPECT_EQ(time_.Wall(now_), 0);
  Ready(1, absl::Seconds(30));
  EXPECT_EQ(time_.model(), 3u);
  EXPECT_DOUBLE_EQ(Take(GpuKind::kLoad), 60);
  EXPECT_DOUBLE_EQ(time_.Wall(now_), 60);
  EXPECT_EQ(Rest(), 0);
}

TEST_F(GpuTimeTest, AGapWithoutAPlanIsNobodysAndOneBehindAPlanIsTheHosts) {
  Ready(1, absl::ZeroDuration());
  Pass(5);
  Send();
  Pass(2);
  Answer(1, 1, {{5.5, 1.5}, {5.25, 1.75}}, 3.25);  // 5 s nobody wanted anything
  EXPECT_DOUBLE_EQ(Take(GpuKind::kIdleNone), 10);
  EXPECT_DOUBLE_EQ(Take(GpuKind::kIdleHost), 0.75);
  EXPECT_EQ(Rest(), 0);
}

TEST_F(GpuTimeTest, TheGapBetweenOverlappingPlansIsTheHosts) {
  Ready(1, absl::ZeroDuration());
  Send();
  Send();
  Pass(1);
  Answer(1, 1, {{0, 1}, {0, 1}}, 2);
  Pass(1.5);
  Answer(2, 1, {{0.5, 1}, {0.5, 1}}, 2);
  EXPECT_DOUBLE_EQ(Take(GpuKind::kIdleHost), 1);
  EXPECT_EQ(Rest(), 0);
}

TEST_F(GpuTimeTest, AHeartbeatIsNoWork) {
  Ready(1, absl::ZeroDuration());
  Pass(1);
  Send();
  Pass(0.5);
  Answer(1, 0, {{1, 0.25}, {1, 0.25}}, 0);
  EXPECT_DOUBLE_EQ(Take(GpuKind::kIdleNone), 2.5);
  EXPECT_EQ(Rest(), 0);
}

TEST_F(GpuTimeTest, WaitingForTheSlowestRankIsABubble) {
  Ready(1, absl::ZeroDuration());
  Send();
  Pass(3);
  Answer(1, 4, {{0, 3}, {0, 3}}, 5);  // of six seconds five were work
  EXPECT_DOUBLE_EQ(Take(GpuKind::kIdleBubble), 1);
  EXPECT_EQ(Rest(), 0);
}

TEST_F(GpuTimeTest, RecoveryIsAllThatWasNotToldUntilTheGroupIsBack) {
  Ready(1, absl::Seconds(10));
  EXPECT_DOUBLE_EQ(Take(GpuKind::kLoad), 20);
  Send();
  Pass(1);
  Answer(1, 1, {{0, 1}, {0, 1}}, 2);
  Send();
  Pass(3);  // nobody answers
  time_.OnLost(1, now_);
  EXPECT_DOUBLE_EQ(Take(GpuKind::kRecovery), 6);
  Pass(2);
  EXPECT_DOUBLE_EQ(Take(GpuKind::kRecovery), 4);  // goes on while it is away
  Pass(2);
  Ready(2, absl::Seconds(2));
  EXPECT_DOUBLE_EQ(Take(GpuKind::kRecovery), 4);
  EXPECT_EQ(Rest(), 0);
  EXPECT_DOUBLE_EQ(time_.Wall(now_), 36);
}

TEST_F(GpuTimeTest, AnAnswerThatTheSchedulerDidNotTakeIsRecoveryInTheEnd) {
  Ready(1, absl::ZeroDuration());
  Send();
  Pass(2);
  Answer(1, 1, {{0, 2}, {0, 2}}, 0);
  EXPECT_EQ(Rest(), 0);
  time_.OnLost(1, now_);
  EXPECT_DOUBLE_EQ(Take(GpuKind::kRecovery), 4);
}

TEST_F(GpuTimeTest, ARankThatWaitedForOthersToLoadIsNotIdleForThatTime) {
  Ready(1, absl::Seconds(9));
  EXPECT_DOUBLE_EQ(Take(GpuKind::kLoad), 18);
  Pass(1);
  Send();
  Pass(1);
  Answer(1, 1, {{7, 1}, {1, 1}}, 2);  // the first was loaded 6 s before the second
  EXPECT_DOUBLE_EQ(Take(GpuKind::kIdleNone), 2);
  EXPECT_EQ(Rest(), 0);
}

TEST_F(GpuTimeTest, StaleNewsChangesNothing) {
  Ready(2, absl::ZeroDuration());
  Send();
  Pass(1);
  time_.OnLost(1, now_);
  StepDone done;
  done.rank_results.resize(2);
  done.rank_results[0].set_epoch(1);
  done.rank_results[0].set_step(1);
  done.rank_results[0].set_idle_before_ns(kSecond);
  time_.OnStepDone(done, 7, now_);
  done.rank_results[0].set_epoch(2);
  done.rank_results[0].set_step(9);
  time_.OnStepDone(done, 7, now_);
  EXPECT_EQ(Rest(), 0);
}

TEST_F(GpuTimeTest, AnotherNumberOfRanksKeepsTheTimeOfTheFirst) {
  Ready(1, absl::ZeroDuration(), 4);
  Pass(10);
  time_.OnLost(1, now_);
  Ready(2, absl::ZeroDuration(), 2);
  Pass(10);
  EXPECT_DOUBLE_EQ(time_.Wall(now_), 60);
}

}  // namespace
}  // namespace tessera
