// The queues at both ends of a step stream, against a wire that the test holds up: nobody waits
// for a round trip, nothing grows without bound, and the end of the wire ends every wait.

#include "worker/step_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"

namespace tessera {
namespace {

using cluster::v1::StepPlan;
using cluster::v1::StepResult;

constexpr absl::Duration kWirePatience = absl::Seconds(20);

// Reads wait for plans or the end, writes while the wire is held.
class FakeWire final : public StepStream::Wire {
 public:
  void Deliver(uint64_t step) {
    absl::MutexLock lock(&mutex_);
    plans_.push_back(step);
  }
  void End() {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
  }
  void HoldWrites(bool held) {
    absl::MutexLock lock(&mutex_);
    held_ = held;
  }
  bool AwaitReads(int count) {
    absl::MutexLock lock(&mutex_);
    const auto met = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return reads_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&met), kWirePatience);
  }
  bool AwaitWritten(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto met = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return written_.size() >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&met), kWirePatience);
  }
  int reads() {
    absl::MutexLock lock(&mutex_);
    return reads_;
  }
  std::vector<uint64_t> written() {
    absl::MutexLock lock(&mutex_);
    return written_;
  }
  bool writes_done() {
    absl::MutexLock lock(&mutex_);
    return writes_done_;
  }

  bool Read(StepPlan* plan) override {
    absl::MutexLock lock(&mutex_);
    const auto ready = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return ended_ || !plans_.empty(); };
    mutex_.Await(absl::Condition(&ready));
    if (ended_) return false;
    plan->Clear();
    plan->set_step(plans_.front());
    // A plan's memory must not carry an earlier one's rows.
    plan->add_tokens(static_cast<int32_t>(plans_.front()));
    plans_.pop_front();
    ++reads_;
    return true;
  }
  bool Write(const StepResult& result, grpc::WriteOptions) override {
    absl::MutexLock lock(&mutex_);
    const auto free = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return ended_ || !held_; };
    mutex_.Await(absl::Condition(&free));
    if (ended_) return false;
    EXPECT_EQ(result.sampled_size(), 1);
    written_.push_back(result.step());
    return true;
  }
  bool WritesDone() override {
    absl::MutexLock lock(&mutex_);
    writes_done_ = true;
    return true;
  }
  grpc::Status Finish() override { return grpc::Status::OK; }
  void WaitForInitialMetadata() override {}
  bool NextMessageSize(uint32_t*) override { return false; }

 private:
  absl::Mutex mutex_;
  std::deque<uint64_t> plans_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> written_ ABSL_GUARDED_BY(mutex_);
  int reads_ ABSL_GUARDED_BY(mutex_) = 0;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool writes_done_ ABSL_GUARDED_BY(mutex_) = false;
};

// What a rank does with a plan.
bool Answer(StepStream& stream, uint64_t wanted) {
  StepPlan plan;
  if (!stream.Take(plan)) return false;
  EXPECT_EQ(plan.step(), wanted);
  EXPECT_THAT(plan.tokens(), testing::ElementsAre(static_cast<int32_t>(wanted)));
  StepResult result;
  result.set_step(plan.step());
  result.add_sampled(1);
  return stream.Send(result);
}

TEST(StepStreamTest, AHeldUpWriteDelaysNoPlan) {
  FakeWire wire;
  wire.HoldWrites(true);
  wire.Deliver(1);
  wire.Deliver(2);
  StepStream stream(wire);
  // On one thread: would either wait for the wire, the test would hang here.
  EXPECT_TRUE(Answer(stream, 1));
  EXPECT_TRUE(Answer(stream, 2));
  EXPECT_THAT(wire.written(), testing::IsEmpty());
  wire.HoldWrites(false);
  EXPECT_TRUE(wire.AwaitWritten(2));
  EXPECT_THAT(wire.written(), testing::ElementsAre(1, 2));
  wire.End();
}

TEST(StepStreamTest, PlansAreReadWhileTheRankIsBusyButNotWithoutBound) {
  FakeWire wire;
  StepStream stream(wire);
  const int bound = static_cast<int>(StepStream::kPlansQueuedMax) + 1;  // one in the reader's hand
  for (int step = 1; step <= 4 * bound; ++step) wire.Deliver(step);
  EXPECT_TRUE(wire.AwaitReads(bound));
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(wire.reads(), bound);
  for (int step = 1; step <= 4 * bound; ++step) ASSERT_TRUE(Answer(stream, step));
  EXPECT_TRUE(wire.AwaitWritten(4 * bound));
  EXPECT_EQ(wire.written().back(), static_cast<uint64_t>(4 * bound));
  wire.End();
}

TEST(StepStreamTest, ResultsWaitWithoutGrowingAndTheEndFreesTheRank) {
  FakeWire wire;
  wire.HoldWrites(true);
  StepStream stream(wire);
  // One in the writer's hand at most.
  const int bound = static_cast<int>(StepStream::kResultsQueuedMax) + 1;
  int sent = 0;
  std::thread rank([&] {
    StepResult result;
    result.add_sampled(1);
    while (stream.Send(result)) {
      ++sent;
      EXPECT_EQ(result.sampled_size(), 0) << "the rank gets an empty message back";
      result.add_sampled(1);
    }
  });
  absl::SleepFor(absl::Milliseconds(20));
  wire.End();
  rank.join();
  EXPECT_LE(sent, bound);
  EXPECT_GE(sent, 1);
  StepPlan plan;
  EXPECT_FALSE(stream.Take(plan));
}

TEST(StepStreamTest, ClosingWritesWhatWasSent) {
  FakeWire wire;
  wire.HoldWrites(true);
  wire.Deliver(1);
  StepStream stream(wire);
  EXPECT_TRUE(Answer(stream, 1));
  std::thread opener([&] {
    absl::SleepFor(absl::Milliseconds(20));
    wire.HoldWrites(false);
  });
  stream.CloseSending(kWirePatience);
  EXPECT_THAT(wire.written(), testing::ElementsAre(1));
  opener.join();
  for (int i = 0; i < 2000 && !wire.writes_done(); ++i) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(wire.writes_done());
  wire.End();
}

TEST(StepStreamTest, ClosingHasADeadline) {
  FakeWire wire;
  wire.HoldWrites(true);
  wire.Deliver(1);
  StepStream stream(wire);
  EXPECT_TRUE(Answer(stream, 1));
  stream.CloseSending(absl::Milliseconds(10));
  EXPECT_THAT(wire.written(), testing::IsEmpty());
  wire.End();
}

}  // namespace
}  // namespace tessera
