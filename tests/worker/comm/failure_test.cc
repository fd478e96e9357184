// What happens when a rank dies, stalls, gives up, or disagrees.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "fake_ops.h"
#include "rank_harness.h"

namespace tessera {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

const ExecContext kFailureContext;
constexpr size_t kFloats = 4096;

absl::Status Reduce(Communicator& comm) {
  std::vector<float> data(kFloats, 1.0f);
  return comm.AllReduce(kFailureContext, TensorView(data.data(), DType::kFloat32, {kFloats}));
}

absl::Status ReduceForever(Communicator& comm) {
  for (;;) TESSERA_RETURN_IF_ERROR(Reduce(comm));
}

class KilledRankTest : public testing::TestWithParam<Transport> {};

TEST_P(KilledRankTest, IsNamedBeforeTheDeadline) {
  const int victim = 2;
  const auto body = [&](Communicator& comm) -> absl::Status {
    for (int i = 0; i < 20; ++i) TESSERA_RETURN_IF_ERROR(Reduce(comm));
    if (comm.rank() == victim) kill(getpid(), SIGKILL);
    return ReduceForever(comm);
  };
  const absl::Time start = absl::Now();
  const std::vector<absl::Status> statuses = RunRanks(GetParam(), 4, absl::Seconds(20), body);
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  for (int rank = 0; rank < 4; ++rank) {
    if (rank == victim) continue;
    EXPECT_EQ(statuses[rank].code(), absl::StatusCode::kUnavailable) << statuses[rank];
    EXPECT_THAT(std::string(statuses[rank].message()), HasSubstr("rank 2"));
  }
  EXPECT_THAT(SegmentNames(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Transports, KilledRankTest,
                         testing::Values(Transport::kSharedProcesses, Transport::kGloo),
                         [](const auto& info) { return std::string(Name(info.param)); });

class FailureTest : public testing::TestWithParam<Transport> {};

TEST_P(FailureTest, AStalledRankIsNamedAtTheDeadline) {
  const auto body = [&](Communicator& comm) -> absl::Status {
    TESSERA_RETURN_IF_ERROR(Reduce(comm));
    if (comm.rank() == 1) {
      absl::SleepFor(absl::Milliseconds(900));
      return absl::OkStatus();
    }
    const absl::Time start = absl::Now();
    absl::Status status = Reduce(comm);
    if (absl::Now() - start > absl::Milliseconds(800)) return absl::InternalError("too late");
    return status;
  };
  const std::vector<absl::Status> statuses = RunRanks(GetParam(), 2, absl::Milliseconds(300), body);
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kDeadlineExceeded) << statuses[0];
  EXPECT_THAT(std::string(statuses[0].message()), HasSubstr("rank 1"));
}

TEST_P(FailureTest, AbortFromAnotherThreadEndsEveryRank) {
  const auto body = [&](Communicator& comm) -> absl::Status {
    TESSERA_RETURN_IF_ERROR(Reduce(comm));
    const absl::Time start = absl::Now();
    std::thread aborter;
    absl::Status status;
    if (comm.rank() == 1) {
      // Nobody else joins the barrier of rank 1's peers, so only Abort can end it.
      absl::SleepFor(absl::Milliseconds(50));
      comm.Abort();
      status = comm.Barrier(kFailureContext);
    } else if (comm.rank() == 0) {
      aborter = std::thread([&comm]() {
        absl::SleepFor(absl::Milliseconds(400));
        comm.Abort();
      });
      status = comm.Barrier(kFailureContext);
    } else {
      status = comm.Barrier(kFailureContext);
    }
    if (aborter.joinable()) aborter.join();
    if (status.ok()) return absl::InternalError("a barrier of an aborted group passed");
    if (absl::Now() - start > absl::Seconds(5)) return absl::InternalError("too late");
    if (comm.Barrier(kFailureContext).ok()) return absl::InternalError("the group lives on");
    return status;
  };
  for (const absl::Status& status : RunRanks(GetParam(), 4, absl::Seconds(20), body)) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 aborted"));
  }
}

// The rank that waits is the one that is aborted, from its own process.
TEST_P(FailureTest, AbortEndsTheCallThatWaits) {
  const auto body = [&](Communicator& comm) -> absl::Status {
    TESSERA_RETURN_IF_ERROR(Reduce(comm));
    if (comm.rank() == 1) {
      absl::SleepFor(absl::Milliseconds(600));
      return absl::OkStatus();
    }
    std::thread aborter([&comm]() {
      absl::SleepFor(absl::Milliseconds(50));
      comm.Abort();
    });
    const absl::Time start = absl::Now();
    absl::Status status = Reduce(comm);
    aborter.join();
    if (absl::Now() - start > absl::Milliseconds(500)) return absl::InternalError("too late");
    return status;
  };
  const std::vector<absl::Status> statuses = RunRanks(GetParam(), 2, absl::Seconds(20), body);
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kUnavailable) << statuses[0];
  EXPECT_THAT(std::string(statuses[0].message()), HasSubstr("rank 0 aborted"));
}

TEST_P(FailureTest, ARankThatLeavesOrderlyTakesNothingAlong) {
  const auto body = [&](Communicator& comm) -> absl::Status {
    for (int i = 0; i < 20; ++i) TESSERA_RETURN_IF_ERROR(Reduce(comm));
    return absl::OkStatus();
  };
  for (int repeat = 0; repeat < 5; ++repeat) {
    for (const absl::Status& status : RunRanks(GetParam(), 2, absl::Seconds(20), body)) {
      EXPECT_TRUE(status.ok()) << status;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, FailureTest,
                         testing::Values(Transport::kLoopback, Transport::kSharedThreads,
                                         Transport::kSharedProcesses, Transport::kGloo),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST(SharedMemoryFailureTest, DivergedRanksAreAnError) {
  const auto body = [](Communicator& comm) -> absl::Status {
    if (comm.rank() == 0) return comm.Barrier(kFailureContext);
    return Reduce(comm);
  };
  const auto statuses = RunRanks(Transport::kSharedThreads, 2, absl::Seconds(5), body);
  EXPECT_THAT(std::string(statuses[0].message()) + std::string(statuses[1].message()),
              HasSubstr("the ranks have diverged"));
}

TEST(SharedMemoryFailureTest, ARankThatNeverConnectsIsNamed) {
  FakeOps ops;
  std::vector<CommBuilder> builders;
  std::vector<std::string> blobs;
  for (int rank = 0; rank < 2; ++rank) {
    CommOptions options = OptionsFor(Transport::kSharedThreads, rank, 2, absl::Seconds(1));
    options.connect_deadline = absl::Milliseconds(100);
    builders.push_back(*CommBuilder::Create(options, ops));
    blobs.push_back(builders.back().hello());
  }
  EXPECT_EQ(SegmentNames().size(), 1);
  const auto status = std::move(builders[0]).Connect(blobs).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1"));
  EXPECT_THAT(SegmentNames(), IsEmpty());
}

TEST(SharedMemoryFailureTest, ABuilderThatIsDroppedLeavesNothing) {
  FakeOps ops;
  {
    auto builder =
        CommBuilder::Create(OptionsFor(Transport::kSharedThreads, 0, 4, absl::Seconds(1)), ops);
    ASSERT_TRUE(builder.ok()) << builder.status();
    EXPECT_EQ(SegmentNames().size(), 1);
  }
  EXPECT_THAT(SegmentNames(), IsEmpty());
}

}  // namespace
}  // namespace tessera
