// The fencing rules: who is obeyed, who is dropped, what interrupts.

#include "worker/inbox.h"

#include <gtest/gtest.h>

#include <thread>

namespace tessera {
namespace {

using cluster::v1::CoordinatorMessage;

CoordinatorMessage Assign(uint64_t term, uint64_t epoch) {
  CoordinatorMessage message;
  message.mutable_assign()->set_term(term);
  message.mutable_assign()->set_epoch(epoch);
  return message;
}

CoordinatorMessage Unassign(uint64_t term, uint64_t epoch) {
  CoordinatorMessage message;
  message.mutable_unassign()->set_term(term);
  message.mutable_unassign()->set_epoch(epoch);
  return message;
}

CoordinatorMessage Peers(uint64_t epoch) {
  CoordinatorMessage message;
  message.mutable_comm_peers()->set_epoch(epoch);
  message.mutable_comm_peers()->add_blobs()->append("address");
  return message;
}

std::optional<RankEvent> TakeNow(Inbox& inbox) { return inbox.Take(absl::InfinitePast()); }

TEST(InboxTest, ObeysOnlyTheHighestTermAndEpoch) {
  Inbox inbox;
  ASSERT_TRUE(inbox.BeginJoin(4).ok());
  ASSERT_TRUE(inbox.Post(Assign(4, 2)).ok());
  ASSERT_TRUE(inbox.Post(Assign(4, 2)).ok());
  ASSERT_TRUE(inbox.Post(Assign(4, 1)).ok());
  ASSERT_TRUE(inbox.Post(Assign(3, 9)).ok());
  ASSERT_TRUE(inbox.Post(Unassign(4, 1)).ok());
  ASSERT_TRUE(inbox.Post(Unassign(3, 2)).ok());
  ASSERT_TRUE(inbox.Post(Peers(1)).ok());
  const auto event = TakeNow(inbox);
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(std::get<cluster::v1::Assign>(*event).epoch(), 2u);
  EXPECT_FALSE(TakeNow(inbox).has_value());
  ASSERT_TRUE(inbox.Post(Assign(5, 1)).ok());
  ASSERT_TRUE(inbox.Post(Unassign(4, 2)).ok());
  ASSERT_TRUE(inbox.Post(Unassign(5, 1)).ok());
  EXPECT_TRUE(std::holds_alternative<cluster::v1::Assign>(*TakeNow(inbox)));
  EXPECT_TRUE(std::holds_alternative<cluster::v1::Unassign>(*TakeNow(inbox)));
  EXPECT_FALSE(TakeNow(inbox).has_value());
}

TEST(InboxTest, ANewJoinStartsEpochsAnewAndRefusesAnOlderTerm) {
  Inbox inbox;
  ASSERT_TRUE(inbox.BeginJoin(4).ok());
  ASSERT_TRUE(inbox.Post(Assign(4, 7)).ok());
  inbox.PostLinkLost(absl::UnavailableError("cut"));
  EXPECT_EQ(inbox.BeginJoin(3).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(inbox.BeginJoin(4).ok());
  EXPECT_FALSE(TakeNow(inbox).has_value());
  ASSERT_TRUE(inbox.Post(Assign(4, 1)).ok());
  EXPECT_TRUE(TakeNow(inbox).has_value());
}

TEST(InboxTest, AStopSurvivesAJoinAndComesFirst) {
  Inbox inbox;
  inbox.PostStop("SIGTERM");
  ASSERT_TRUE(inbox.BeginJoin(1).ok());
  ASSERT_TRUE(inbox.Post(Assign(1, 1)).ok());
  EXPECT_TRUE(inbox.stop_requested());
  EXPECT_TRUE(std::holds_alternative<StopRequested>(*TakeNow(inbox)));
}

TEST(InboxTest, PeersDoNotInterruptTheRestDoes) {
  Inbox inbox;
  ASSERT_TRUE(inbox.BeginJoin(1).ok());
  ASSERT_TRUE(inbox.Post(Assign(1, 1)).ok());
  TakeNow(inbox);
  ASSERT_TRUE(inbox.Post(Peers(1)).ok());
  EXPECT_FALSE(inbox.interrupted());
  EXPECT_EQ(inbox.TakePeers(absl::InfinitePast())->blobs_size(), 1);
  EXPECT_EQ(inbox.TakePeers(absl::InfinitePast()).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(inbox.Post(Unassign(1, 1)).ok());
  EXPECT_TRUE(inbox.interrupted());
  EXPECT_EQ(inbox.TakePeers(absl::InfiniteFuture()).status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(inbox.SleepUnlessInterrupted(absl::InfiniteFuture()));
}

TEST(InboxTest, WakesTheWorkOnceFromTheThreadThatPosts) {
  Inbox inbox;
  ASSERT_TRUE(inbox.BeginJoin(1).ok());
  int woken = 0;
  {
    const Inbox::WakeScope scope(inbox, [&woken] { ++woken; });
    ASSERT_TRUE(inbox.Post(Assign(1, 1)).ok());
    ASSERT_TRUE(inbox.Post(Unassign(1, 1)).ok());
    EXPECT_EQ(woken, 1);
  }
  {
    // Something waits already: at once.
    const Inbox::WakeScope scope(inbox, [&woken] { ++woken; });
    EXPECT_EQ(woken, 2);
  }
  inbox.PostStop("SIGINT");
  EXPECT_EQ(woken, 2);
}

TEST(InboxTest, AFloodIsRefused) {
  Inbox inbox;
  ASSERT_TRUE(inbox.BeginJoin(1).ok());
  absl::Status status;
  uint64_t epoch = 0;
  for (; status.ok() && epoch < 10 * Inbox::kEventsMax; ++epoch) {
    status = inbox.Post(Assign(1, epoch + 1));
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(epoch, Inbox::kEventsMax + 1);
}

TEST(InboxTest, MessagesWithoutAPlaceAreRefused) {
  Inbox inbox;
  ASSERT_TRUE(inbox.BeginJoin(1).ok());
  CoordinatorMessage welcome;
  welcome.mutable_welcome()->set_term(1);
  EXPECT_EQ(inbox.Post(welcome).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(inbox.Post(CoordinatorMessage()).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tessera
