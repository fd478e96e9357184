// Bounds and order of the queue in front of the engine.

#include "coordinator/engine/inbox.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

namespace tessera {
namespace {

constexpr absl::Duration kNoWait = absl::ZeroDuration();
constexpr absl::Duration kLongWait = absl::Seconds(60);

absl::Status PushRequest(Inbox& inbox, RequestId id) {
  auto request = std::make_shared<Request>();
  request->id = id;
  return inbox.PushRequest(NewRequest{request}, std::make_shared<RequestStream>([] {}));
}

TEST(InboxTest, PlacesComeBackOnlyWhenTheSchedulerHasLetRequestsRun) {
  Inbox inbox(2);
  EXPECT_TRUE(PushRequest(inbox, 1).ok());
  EXPECT_TRUE(PushRequest(inbox, 2).ok());
  EXPECT_EQ(PushRequest(inbox, 3).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(inbox.WaitAndDrain(kNoWait).size(), 2u);
  EXPECT_EQ(PushRequest(inbox, 3).code(), absl::StatusCode::kResourceExhausted);
  inbox.Settle(1);  // one of them still waits
  EXPECT_TRUE(PushRequest(inbox, 3).ok());
  EXPECT_EQ(PushRequest(inbox, 4).code(), absl::StatusCode::kResourceExhausted);
}

TEST(InboxTest, OtherEventsAreNeverRefusedAndOrderIsKept) {
  Inbox inbox(1);
  EXPECT_TRUE(PushRequest(inbox, 1).ok());
  for (RequestId id = 0; id < 100; ++id) inbox.Push(Cancel{.request = id});
  const std::vector<InboxItem> items = inbox.WaitAndDrain(kNoWait);
  ASSERT_EQ(items.size(), 101u);
  EXPECT_NE(items[0].stream, nullptr);
  for (RequestId id = 0; id < 100; ++id) {
    EXPECT_EQ(std::get<Cancel>(items[id + 1].event).request, id);
    EXPECT_EQ(items[id + 1].stream, nullptr);
  }
}

TEST(InboxTest, DrainIsTheLastThingAfterTheRequestsThatWereTaken) {
  Inbox inbox(9);
  EXPECT_TRUE(PushRequest(inbox, 1).ok());
  inbox.BeginDrain();
  inbox.BeginDrain();
  EXPECT_EQ(PushRequest(inbox, 2).code(), absl::StatusCode::kUnavailable);
  const std::vector<InboxItem> items = inbox.WaitAndDrain(kNoWait);
  ASSERT_EQ(items.size(), 2u);
  EXPECT_TRUE(std::holds_alternative<Drain>(items[1].event));
}

TEST(InboxTest, CloseGivesOutTheRestAndDropsWhatComesLater) {
  Inbox inbox(9);
  EXPECT_TRUE(PushRequest(inbox, 1).ok());
  EXPECT_EQ(inbox.Close().size(), 1u);
  inbox.Push(Tick{});
  EXPECT_EQ(PushRequest(inbox, 2).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(inbox.WaitAndDrain(kNoWait).empty());
}

TEST(InboxTest, AnEventWakesTheWaiter) {
  Inbox inbox(1);
  std::thread pusher([&] { inbox.Push(Tick{}); });
  EXPECT_EQ(inbox.WaitAndDrain(kLongWait).size(), 1u);
  pusher.join();
}

}  // namespace
}  // namespace tessera
