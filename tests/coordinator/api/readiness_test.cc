// The readiness rule on made-up scheduler figures.

#include "coordinator/api/readiness.h"

#include <gtest/gtest.h>

namespace tessera::api {
namespace {

constexpr absl::Duration kDeadline = absl::Seconds(5);

class ReadinessTest : public testing::Test {
 protected:
  void AddGroup(uint32_t model, bool ready, absl::Duration silent) {
    GroupStats group;
    group.group = static_cast<uint32_t>(stats_.groups.size());
    group.model = model;
    group.ready = ready;
    group.last_progress = now_ - silent;
    stats_.groups.push_back(group);
  }
  ReadinessReport Judge(size_t models) { return JudgeReadiness(stats_, models, now_, kDeadline); }

  const absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  SchedulerStats stats_;
};

TEST_F(ReadinessTest, NothingLoadedIsNotReady) {
  EXPECT_FALSE(Judge(1).ready);
  EXPECT_NE(Judge(1).models[0].reason.find("no group"), std::string::npos);
}

TEST_F(ReadinessTest, AReadyGroupWithProgress) {
  AddGroup(0, true, kDeadline);
  EXPECT_TRUE(Judge(1).ready);
  EXPECT_TRUE(Judge(1).models[0].ready);
}

TEST_F(ReadinessTest, AReadyGroupThatHangs) {
  AddGroup(0, true, kDeadline + absl::Milliseconds(100));
  const ReadinessReport report = Judge(1);
  EXPECT_FALSE(report.ready);
  EXPECT_EQ(report.models[0].reason, "group 0 has made no progress for 5.1s, the deadline is 5s");
}

TEST_F(ReadinessTest, OneGoodGroupIsEnoughForAModel) {
  AddGroup(0, false, absl::ZeroDuration());
  AddGroup(0, true, absl::Hours(1));
  EXPECT_FALSE(Judge(1).ready);
  AddGroup(0, true, absl::ZeroDuration());
  EXPECT_TRUE(Judge(1).ready);
}

TEST_F(ReadinessTest, EveryModelMustBeReady) {
  AddGroup(0, true, absl::ZeroDuration());
  const ReadinessReport report = Judge(2);
  EXPECT_FALSE(report.ready);
  EXPECT_TRUE(report.models[0].ready);
  EXPECT_FALSE(report.models[1].ready);
}

TEST_F(ReadinessTest, DrainingIsNotReady) {
  AddGroup(0, true, absl::ZeroDuration());
  stats_.draining = true;
  EXPECT_FALSE(Judge(1).ready);
  EXPECT_TRUE(Judge(1).models[0].ready);
}

}  // namespace
}  // namespace tessera::api
