// Bounds and order of the queue in front of the engine.

#include "coordinator/engine/inbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "coordinator/engine/admission.h"
#include "coordinator/engine/retry_after.h"

namespace tessera {
namespace {

constexpr absl::Duration kNoWait = absl::ZeroDuration();
constexpr absl::Duration kLongWait = absl::Seconds(60);

std::shared_ptr<Request> MakeRequest(RequestId id, size_t prompt = 1, uint32_t max_tokens = 1) {
  auto request = std::make_shared<Request>();
  request->id = id;
  request->prompt.assign(prompt, 7);
  request->sampling.max_tokens = max_tokens;
  return request;
}

WaitingLimits Places(int64_t requests_max) { return {.requests_max = requests_max}; }

Refusal PushRequest(Inbox& inbox, std::shared_ptr<const Request> request) {
  return inbox.PushRequest(NewRequest{std::move(request)}, std::make_shared<RequestStream>([] {}));
}

TEST(InboxTest, PlacesComeBackOnlyWhenTheSchedulerHasLetRequestsRun) {
  Inbox inbox(Places(2));
  EXPECT_EQ(PushRequest(inbox, MakeRequest(1)), Refusal::kNone);
  EXPECT_EQ(PushRequest(inbox, MakeRequest(2)), Refusal::kNone);
  EXPECT_EQ(PushRequest(inbox, MakeRequest(3)), Refusal::kRequests);
  EXPECT_EQ(inbox.WaitAndDrain(kNoWait).size(), 2u);
  EXPECT_EQ(PushRequest(inbox, MakeRequest(3)), Refusal::kRequests);
  inbox.Settle(1, CostOf(*MakeRequest(1)));  // one of them still waits
  EXPECT_EQ(PushRequest(inbox, MakeRequest(3)), Refusal::kNone);
  EXPECT_EQ(PushRequest(inbox, MakeRequest(4)), Refusal::kRequests);
}

TEST(InboxTest, TokensAreBoundedUntilTheirRequestsRun) {
  Inbox inbox({.requests_max = 9, .tokens_max = 100});
  // A prompt of 10 and three choices of 20 at the most: 70 tokens.
  const auto large = MakeRequest(1, 10, 20);
  large->sampling.num_choices = 3;
  EXPECT_EQ(PushRequest(inbox, large), Refusal::kNone);
  EXPECT_EQ(PushRequest(inbox, MakeRequest(2, 20, 11)), Refusal::kTokens);
  EXPECT_EQ(inbox.Check(), Refusal::kNone);
  EXPECT_EQ(PushRequest(inbox, MakeRequest(3, 20, 10)), Refusal::kNone);
  inbox.WaitAndDrain(kNoWait);
  inbox.Settle(2, {});
  EXPECT_EQ(PushRequest(inbox, MakeRequest(4)), Refusal::kTokens);
  inbox.Settle(1, CostOf(*large));
  EXPECT_EQ(PushRequest(inbox, MakeRequest(5, 30, 40)), Refusal::kNone);
  EXPECT_EQ(PushRequest(inbox, MakeRequest(6)), Refusal::kTokens);
}

TEST(InboxTest, BytesAreBoundedToo) {
  const int64_t of_one = CostOf(*MakeRequest(1, 1000)).bytes;
  EXPECT_GE(of_one, 4000);
  Inbox inbox({.requests_max = 9, .bytes_max = 2 * of_one});
  EXPECT_EQ(PushRequest(inbox, MakeRequest(1, 1000)), Refusal::kNone);
  EXPECT_EQ(PushRequest(inbox, MakeRequest(2, 1000)), Refusal::kNone);
  EXPECT_EQ(inbox.Check(), Refusal::kNone);  // full to the brim, not beyond
  EXPECT_EQ(PushRequest(inbox, MakeRequest(3)), Refusal::kBytes);
}

TEST(InboxTest, ARequestBeyondTheBoundsIsTakenWhenNothingElseWaits) {
  Inbox inbox({.requests_max = 9, .tokens_max = 10, .bytes_max = 10});
  const auto huge = MakeRequest(1, 500, 500);
  EXPECT_EQ(PushRequest(inbox, huge), Refusal::kNone);
  EXPECT_EQ(PushRequest(inbox, MakeRequest(2)), Refusal::kTokens);
  inbox.WaitAndDrain(kNoWait);
  inbox.Settle(0, CostOf(*huge));
  EXPECT_EQ(PushRequest(inbox, huge), Refusal::kNone);
}

TEST(AdmissionTest, ARefusalNamesItsBound) {
  const WaitingLimits limits{.requests_max = 11, .tokens_max = 22, .bytes_max = 33};
  const auto message = [&](Refusal refusal) {
    const absl::Status status = RefusalStatus(refusal, limits);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    return std::string(status.message());
  };
  EXPECT_THAT(message(Refusal::kRequests), testing::HasSubstr("11 requests"));
  EXPECT_THAT(message(Refusal::kTokens), testing::HasSubstr("22 tokens"));
  EXPECT_THAT(message(Refusal::kBytes), testing::HasSubstr("33 bytes"));
  EXPECT_EQ(RefusalStatus(Refusal::kDraining, limits).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(RefusalStatus(Refusal::kNoReadyGroup, limits).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(RefusalStatus(Refusal::kNone, limits).ok());
}

TEST(AdmissionTest, ClientsReturnOneByOneAsPlacesComeFree) {
  absl::Time now = absl::UnixEpoch();
  ModelStats stats;
  stats.waiting = 3;
  EXPECT_EQ(ReturnTimes().Next(stats, 3, now), kRetryAfterMin) << "no rate is known";
  // Nobody has ended yet: at the latest the first one that runs does, at its limit.
  stats.running = 4;
  stats.remaining_min = 500;
  stats.tokens_per_second = 100;
  EXPECT_EQ(ReturnTimes().Next(stats, 3, now), absl::Seconds(20));
  // A long prompt that waits for its turn.
  stats.waiting_tokens = 3 * 2500;
  EXPECT_EQ(ReturnTimes().Next(stats, 3, now), absl::Seconds(25));
  stats.waiting_tokens = 3;
  stats.choices_per_second = 0.5;
  ReturnTimes times;
  for (int seconds : {2, 4, 6, 8, 8, 8}) {  // three wait, the fourth place is the last one known
    EXPECT_EQ(times.Next(stats, 3, now), absl::Seconds(seconds));
  }
  now += absl::Seconds(7);
  EXPECT_EQ(times.Next(stats, 3, now), absl::Seconds(3)) << "behind those who were told before";
  stats.choices_per_second = 1e-9;
  EXPECT_EQ(times.Next(stats, 3, now), kRetryAfterMax);
  stats.choices_per_second = 1e9;
  EXPECT_EQ(times.Next(stats, 3, now), kRetryAfterMin);
}

TEST(RetryAfterTest, TravelsWithTheStatusInWholeSeconds) {
  const absl::Status plain = absl::ResourceExhaustedError("full");
  EXPECT_FALSE(RetryAfterOf(plain).has_value());
  EXPECT_EQ(RetryAfterOf(WithRetryAfter(plain, absl::Seconds(7))), 7);
  EXPECT_EQ(RetryAfterOf(WithRetryAfter(plain, absl::Milliseconds(7001))), 8);
  EXPECT_EQ(RetryAfterOf(WithRetryAfter(plain, absl::ZeroDuration())), 1);
  EXPECT_EQ(WithRetryAfter(plain, absl::Seconds(7)).message(), "full");
}

TEST(InboxTest, OtherEventsAreNeverRefusedAndOrderIsKept) {
  Inbox inbox(Places(1));
  EXPECT_EQ(PushRequest(inbox, MakeRequest(1)), Refusal::kNone);
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
  Inbox inbox(Places(9));
  EXPECT_EQ(PushRequest(inbox, MakeRequest(1)), Refusal::kNone);
  inbox.BeginDrain();
  inbox.BeginDrain();
  EXPECT_EQ(PushRequest(inbox, MakeRequest(2)), Refusal::kDraining);
  const std::vector<InboxItem> items = inbox.WaitAndDrain(kNoWait);
  ASSERT_EQ(items.size(), 2u);
  EXPECT_TRUE(std::holds_alternative<Drain>(items[1].event));
}

TEST(InboxTest, CloseGivesOutTheRestAndDropsWhatComesLater) {
  Inbox inbox(Places(9));
  EXPECT_EQ(PushRequest(inbox, MakeRequest(1)), Refusal::kNone);
  EXPECT_EQ(inbox.Close().size(), 1u);
  inbox.Push(Tick{});
  EXPECT_EQ(PushRequest(inbox, MakeRequest(2)), Refusal::kDraining);
  EXPECT_TRUE(inbox.WaitAndDrain(kNoWait).empty());
}

TEST(InboxTest, AnEventWakesTheWaiter) {
  Inbox inbox(Places(1));
  std::thread pusher([&] { inbox.Push(Tick{}); });
  EXPECT_EQ(inbox.WaitAndDrain(kLongWait).size(), 1u);
  pusher.join();
}

}  // namespace
}  // namespace tessera
