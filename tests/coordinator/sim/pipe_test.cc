// One direction of a stream, with and without faults, and the meeting of ranks.

#include "coordinator/sim/pipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "coordinator/sim/fabric.h"

namespace tessera::sim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

constexpr int kClosed = -1;

class PipeTest : public ::testing::Test {
 protected:
  PipeTest() {
    wire_.model.jitter = absl::Milliseconds(5);  // much more than the delay
    wire_.fate = [this](MessageKind kind, uint32_t worker) {
      asked_.emplace_back(kind, worker);
      return fate_;
    };
    pipe_.Listen([this](int message) { Take(message); }, [this] { Take(kClosed); });
  }
  void Take(int message) {
    got_.push_back(message);
    when_.push_back(queue_.Now() - absl::UnixEpoch());
  }
  const std::vector<int>& Run() {
    queue_.RunUntil(queue_.Now() + absl::Seconds(10));
    return got_;
  }

  EventQueue queue_;
  MessageFate fate_;
  std::vector<std::pair<MessageKind, uint32_t>> asked_;
  Wire wire_{.queue = queue_, .random = Random(1), .model = {}, .fate = {}};
  Pipe<int> pipe_{wire_, MessageKind::kPlan, 7};
  std::vector<int> got_;
  std::vector<absl::Duration> when_;
};

TEST_F(PipeTest, KeepsTheOrderWhateverTheDelays) {
  std::vector<int> sent;
  for (int i = 0; i < 200; ++i) {
    pipe_.Send(i);
    sent.push_back(i);
  }
  pipe_.Close();
  pipe_.Close();
  pipe_.Send(1000);  // too late
  sent.push_back(kClosed);
  EXPECT_EQ(Run(), sent);
}

TEST_F(PipeTest, MessagesTakeTheLinksTimeAndAJitterThatVaries) {
  constexpr int kMessages = 1000;
  for (int i = 0; i < kMessages; ++i) {
    queue_.RunUntil(absl::UnixEpoch() + absl::Seconds(i));
    pipe_.Send(i);
  }
  ASSERT_EQ(Run().size(), static_cast<size_t>(kMessages));
  absl::Duration sum;
  for (int i = 0; i < kMessages; ++i) {
    const absl::Duration took = when_[static_cast<size_t>(i)] - absl::Seconds(i);
    EXPECT_GE(took, wire_.model.delay);
    sum += took - wire_.model.delay;
  }
  // An exponential's standard deviation is its mean.
  EXPECT_NEAR(absl::ToDoubleSeconds(sum / kMessages) / absl::ToDoubleSeconds(wire_.model.jitter), 1,
              0.16);
}

TEST_F(PipeTest, WhoDecidesFateIsToldWhatAndWhose) {
  pipe_.Send(1);
  EXPECT_THAT(asked_, ElementsAre(Pair(MessageKind::kPlan, 7u)));
}

TEST_F(PipeTest, WhatIsDroppedNeverComes) {
  fate_.drop = true;
  pipe_.Send(1);
  fate_ = {};
  pipe_.Send(2);
  EXPECT_THAT(Run(), ElementsAre(2));
}

TEST_F(PipeTest, WhatIsDoubledComesTwiceTheSecondTimeLater) {
  fate_.duplicate = true;
  pipe_.Send(1);
  EXPECT_THAT(Run(), ElementsAre(1, 1));
  EXPECT_GT(when_[1], when_[0]);
}

TEST_F(PipeTest, WhatIsDelayedHoldsUpWhatComesBehind) {
  fate_.delay = absl::Seconds(1);
  pipe_.Send(1);
  fate_ = {};
  pipe_.Send(2);
  EXPECT_THAT(Run(), ElementsAre(1, 2));
  EXPECT_GT(when_[0], absl::Seconds(1));
  EXPECT_GE(when_[1], when_[0]);
}

TEST_F(PipeTest, WhatOvertakesDoesNotWaitAndDoesNotHoldUpOthers) {
  fate_.delay = absl::Seconds(1);
  pipe_.Send(1);
  fate_ = {.drop = false, .duplicate = false, .overtake = true, .delay = absl::ZeroDuration()};
  pipe_.Send(2);
  fate_.delay = absl::Seconds(5);
  pipe_.Send(3);
  fate_ = {};
  pipe_.Send(4);
  EXPECT_THAT(Run(), ElementsAre(2, 1, 4, 3));
}

TEST_F(PipeTest, NothingIsDeliveredToWhomIsGone) {
  pipe_.Send(1);
  pipe_.Close();
  pipe_.Cut();
  EXPECT_THAT(Run(), IsEmpty());
}

TEST_F(PipeTest, ALostHostIsNoticedLate) {
  pipe_.Send(1);
  pipe_.Close(absl::Seconds(3));
  queue_.RunUntil(queue_.Now() + absl::Seconds(3) - absl::Nanoseconds(1));
  EXPECT_THAT(got_, ElementsAre(1));
  EXPECT_THAT(Run(), ElementsAre(1, kClosed));
}

// A pipe may be gone before its messages have arrived.
TEST_F(PipeTest, WhatIsUnderWayOutlivesThePipe) {
  {
    Pipe<int> other(wire_, MessageKind::kResult, 0);
    other.Listen([this](int message) { Take(message); }, [] {});
    other.Send(5);
  }
  EXPECT_THAT(Run(), ElementsAre(5));
}

TEST(FabricTest, AStepEndsOnEveryRankWhenTheLastOneHasCome) {
  Fabric fabric;
  std::vector<int> done;
  fabric.Arrive(1, 1, 3, [&] { done.push_back(0); });
  fabric.Arrive(1, 1, 3, [&] { done.push_back(1); });
  EXPECT_THAT(done, IsEmpty());
  fabric.Arrive(1, 1, 3, [&] { done.push_back(2); });
  EXPECT_THAT(done, ElementsAre(0, 1, 2));
  fabric.Arrive(1, 1, 3, [&] { done.push_back(3); });
  EXPECT_THAT(done, ElementsAre(0, 1, 2)) << "the meeting is over; this is another";
}

TEST(FabricTest, OnlyRanksOfTheSameStepAndEpochMeet) {
  Fabric fabric;
  std::vector<int> done;
  fabric.Arrive(1, 1, 2, [&] { done.push_back(11); });
  fabric.Arrive(1, 2, 2, [&] { done.push_back(12); });
  fabric.Arrive(2, 1, 2, [&] { done.push_back(21); });
  EXPECT_THAT(done, IsEmpty());
  fabric.Arrive(2, 1, 2, [&] { done.push_back(22); });
  EXPECT_THAT(done, ElementsAre(21, 22));
}

TEST(FabricTest, MayBeEnteredAgainFromAMeetingAndForgetsLongLostEpochs) {
  Fabric fabric;
  std::vector<int> done;
  fabric.Arrive(1, 1, 2, [&] { done.push_back(0); });
  fabric.Arrive(500, 1, 1, [&] {
    done.push_back(1);
    fabric.Arrive(500, 2, 1, [&] { done.push_back(2); });
  });
  EXPECT_THAT(done, UnorderedElementsAre(1, 2));
  fabric.Arrive(1, 1, 2, [&] { done.push_back(3); });
  EXPECT_THAT(done, UnorderedElementsAre(1, 2)) << "whoever waited in epoch 1 was forgotten";
}

}  // namespace
}  // namespace tessera::sim
