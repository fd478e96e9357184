// Which groups are lost for good: word of workers that never come back and notices, in any order.

#include "coordinator/lost_groups.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using testing::HasSubstr;

Notice Of(Notice::Kind kind, uint32_t group, uint64_t epoch) {
  Notice notice;
  notice.kind = kind;
  notice.group = group;
  notice.epoch = epoch;
  return notice;
}
Notice Ready(uint32_t group, uint64_t epoch) { return Of(Notice::Kind::kReady, group, epoch); }
Notice Lost(uint32_t group, uint64_t epoch) { return Of(Notice::Kind::kLost, group, epoch); }
Notice Left(const std::string& worker, uint32_t group, uint32_t rank, uint64_t epoch) {
  Notice notice = Of(Notice::Kind::kLeft, group, epoch);
  notice.worker = worker;
  notice.rank = rank;
  return notice;
}
WorkerGone Gone(const std::string& worker) { return {worker, "was killed by signal 9"}; }

// "" for none, else "group: message" of each change; a regained group is "group: back".
std::string Changes(LostGroups* groups) {
  std::string text;
  for (const LostGroups::Change& change : groups->TakeChanges()) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", change.group, ": ",
                    change.reason.ok() ? "back" : change.reason.message());
  }
  return text;
}

TEST(LostGroupsTest, AWorkerThatNeverComesBackCostsItsGroup) {
  LostGroups groups(2, 2);
  for (uint32_t group : {0, 1}) groups.Apply(Ready(group, group + 1));
  groups.Apply(Left("local-2", 1, 0, 2));
  groups.Apply(Lost(1, 2));
  EXPECT_EQ(Changes(&groups), "");  // it may be started again
  groups.OnWorkerGone(Gone("local-2"));
  EXPECT_EQ(Changes(&groups),
            "1: the model is not served any more: rank 0 (local-2) was killed by signal 9");
  groups.OnWorkerGone(Gone("local-2"));
  groups.Apply(Lost(1, 2));
  EXPECT_EQ(Changes(&groups), "");  // said once
}

TEST(LostGroupsTest, TheWordMayComeBeforeTheLossIsNoticed) {
  LostGroups groups(2, 1);
  for (uint32_t group : {0, 1}) groups.Apply(Ready(group, group + 1));
  groups.OnWorkerGone(Gone("local-0"));
  EXPECT_EQ(Changes(&groups), "");
  groups.Apply(Left("local-0", 0, 0, 1));
  groups.Apply(Lost(0, 1));
  EXPECT_THAT(Changes(&groups), HasSubstr("0: the model is not served any more: rank 0 (local-0)"));
}

TEST(LostGroupsTest, OneModelAlone) {
  LostGroups groups(1, 2);
  groups.Apply(Ready(0, 1));
  groups.OnWorkerGone(Gone("local-1"));
  groups.Apply(Lost(0, 1));
  EXPECT_EQ(Changes(&groups),
            "0: the model is not served any more: too few workers are left: local-1 was killed by "
            "signal 9");
}

TEST(LostGroupsTest, AGroupThatStartsAgainIsNotTheLostOne) {
  LostGroups groups(2, 1);
  for (uint32_t group : {0, 1}) groups.Apply(Ready(group, group + 1));
  groups.Apply(Left("local-0", 0, 0, 1));
  groups.Apply(Lost(0, 1));
  groups.OnWorkerGone(Gone("local-0"));
  EXPECT_NE(Changes(&groups), "");
  groups.Apply(Lost(1, 2));
  EXPECT_EQ(Changes(&groups), "");
  groups.Apply(Ready(1, 3));
  EXPECT_EQ(Changes(&groups), "");
  // A worker of another group has taken its place after all: then it is that one's turn.
  groups.Apply(Lost(1, 3));
  groups.Apply(Ready(0, 4));
  EXPECT_EQ(Changes(&groups),
            "0: back; 1: the model is not served any more: too few workers are left: local-0 was "
            "killed by signal 9");
}

TEST(LostGroupsTest, NoticesOfOneGroupThatChangePlaces) {
  LostGroups groups(1, 1);
  groups.Apply(Ready(0, 1));
  groups.OnWorkerGone(Gone("spare"));
  groups.Apply(Ready(0, 3));
  groups.Apply(Lost(0, 1));
  EXPECT_EQ(Changes(&groups), "");
  groups.Apply(Lost(0, 3));
  groups.Apply(Ready(0, 2));
  EXPECT_THAT(Changes(&groups), HasSubstr("0: the model"));
}

TEST(LostGroupsTest, WeightsThatCannotBeReadAgain) {
  LostGroups groups(2, 1);
  for (uint32_t group : {0, 1}) groups.Apply(Ready(group, group + 1));
  groups.Apply(Lost(1, 2));
  groups.Apply(Of(Notice::Kind::kLoadFailed, 1, 3));
  EXPECT_EQ(Changes(&groups),
            "1: the model is not served any more: it cannot be loaded again, see the log");
  groups.Apply(Lost(1, 3));
  EXPECT_EQ(Changes(&groups), "");
  groups.Apply(Ready(1, 4));
  EXPECT_EQ(Changes(&groups), "1: back");
}

TEST(LostGroupsTest, NothingIsLostWhileWorkersMayCome) {
  LostGroups groups(2, 2);
  for (uint64_t epoch = 1; epoch < 6; ++epoch) {
    groups.Apply(Ready(0, epoch));
    groups.Apply(Left("local-0", 0, 0, epoch));
    groups.Apply(Lost(0, epoch));
  }
  EXPECT_EQ(Changes(&groups), "");
}

}  // namespace
}  // namespace tessera
