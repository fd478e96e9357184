// The one test of every transport: each operation, on 1, 2, 4 and 8 ranks, at sizes that do not fit
// anything neatly, against a reference computed from the inputs alone.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "rank_harness.h"

namespace tessera {
namespace {

constexpr absl::Duration kDeadline = absl::Seconds(20);
constexpr uint32_t kSeed = 20251;
const ExecContext kContext;

// Element i of rank r: large and small magnitudes mixed, so that another order of additions gives
// other bits.
float Value(int rank, size_t i) {
  uint32_t x =
      static_cast<uint32_t>(i) * 2654435761u + static_cast<uint32_t>(rank) * 40503u + kSeed;
  x ^= x >> 15;
  x *= 2246822519u;
  x ^= x >> 13;
  const float unit = static_cast<float>(x >> 8) * 0x1p-24f - 0.5f;
  return unit * static_cast<float>(1u << (x % 20));
}

std::vector<float> Values(int rank, size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = Value(rank, i);
  return values;
}

// The fixed tree, written as the recursion that it is.
float Tree(size_t i, int begin, int end) {
  if (end - begin == 1) return Value(begin, i);
  const int middle = (begin + end) / 2;
  return Tree(i, begin, middle) + Tree(i, middle, end);
}

TensorView Floats(std::vector<float>& v) {
  return TensorView(v.data(), DType::kFloat32, {static_cast<int64_t>(v.size())});
}

absl::Status Expect(bool condition, const char* what, size_t n, int rank) {
  if (condition) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, " is wrong at size ", n, " on rank ", rank));
}

absl::Status CheckSums(Communicator& comm, size_t n) {
  std::vector<float> data = Values(comm.rank(), n);
  TESSERA_RETURN_IF_ERROR(comm.AllReduce(kContext, Floats(data)));
  for (size_t i = 0; i < n; ++i) {
    const float expected = Tree(i, 0, comm.size());
    if (std::memcmp(&data[i], &expected, sizeof(float)) != 0) {
      return absl::InternalError(absl::StrCat("sum of element ", i, " of ", n, " on rank ",
                                              comm.rank(), ": ", data[i], ", expected ", expected));
    }
  }
  return absl::OkStatus();
}

// Whether `data` is what rank `rank` started with.
bool AreValues(const float* data, int rank, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    if (data[i] != Value(rank, i)) return false;
  }
  return true;
}

absl::Status CheckGathers(Communicator& comm, size_t n) {
  std::vector<float> mine = Values(comm.rank(), n);
  std::vector<float> all(n * comm.size());
  for (const bool host : {false, true}) {
    std::fill(all.begin(), all.end(), -1.0f);
    TESSERA_RETURN_IF_ERROR(host ? comm.AllGatherHost(all.data(), mine.data(), n * sizeof(float))
                                 : comm.AllGather(kContext, Floats(all), Floats(mine)));
    for (int r = 0; r < comm.size(); ++r) {
      TESSERA_RETURN_IF_ERROR(
          Expect(AreValues(all.data() + r * n, r, n), "all-gather", n, comm.rank()));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckBroadcast(Communicator& comm, size_t n) {
  const int root = comm.size() - 1;
  std::vector<float> data = Values(comm.rank(), n);
  TESSERA_RETURN_IF_ERROR(comm.Broadcast(kContext, Floats(data), root));
  return Expect(AreValues(data.data(), root, n), "broadcast", n, comm.rank());
}

// Around the ring: even ranks send first.
absl::Status CheckSendReceive(Communicator& comm, size_t n) {
  if (comm.size() == 1) return absl::OkStatus();
  const int next = (comm.rank() + 1) % comm.size();
  const int previous = (comm.rank() + comm.size() - 1) % comm.size();
  std::vector<float> mine = Values(comm.rank(), n);
  std::vector<float> got(n, -1.0f);
  if (comm.rank() % 2 == 0) TESSERA_RETURN_IF_ERROR(comm.Send(kContext, Floats(mine), next));
  TESSERA_RETURN_IF_ERROR(comm.Receive(kContext, Floats(got), previous));
  if (comm.rank() % 2 == 1) TESSERA_RETURN_IF_ERROR(comm.Send(kContext, Floats(mine), next));
  return Expect(AreValues(got.data(), previous, n), "send and receive", n, comm.rank());
}

absl::Status CheckResidualNorm(Communicator& comm, size_t n) {
  const int64_t columns = 7;
  const int64_t rows = static_cast<int64_t>(n) / columns;
  std::vector<float> partial = Values(comm.rank(), rows * columns);
  std::vector<float> residual(partial.size(), 2.0f), out(partial.size());
  std::vector<float> bias(columns, 0.5f), weight(columns, 3.0f);
  const auto matrix = [&](std::vector<float>& v) {
    return TensorView(v.data(), DType::kFloat32, {rows, columns});
  };
  TESSERA_RETURN_IF_ERROR(comm.AllReduceResidualNorm(kContext, matrix(out), matrix(residual),
                                                     matrix(partial), Floats(bias),
                                                     {.weight = Floats(weight), .eps = 0.25f}));
  for (size_t i = 0; i < out.size(); ++i) {
    const float expected = 2.0f + (Tree(i, 0, comm.size()) + 0.5f);
    TESSERA_RETURN_IF_ERROR(Expect(residual[i] == expected, "residual", n, comm.rank()));
    TESSERA_RETURN_IF_ERROR(Expect(out[i] == expected * 3.0f * 0.25f, "norm", n, comm.rank()));
  }
  return absl::OkStatus();
}

absl::Status CheckEverything(Communicator& comm) {
  for (const size_t n : {0, 1, 7, 4096, 1000003}) {
    TESSERA_RETURN_IF_ERROR(CheckSums(comm, n));
    TESSERA_RETURN_IF_ERROR(CheckGathers(comm, n));
    TESSERA_RETURN_IF_ERROR(CheckBroadcast(comm, n));
    TESSERA_RETURN_IF_ERROR(CheckSendReceive(comm, n));
    TESSERA_RETURN_IF_ERROR(CheckResidualNorm(comm, n));
    TESSERA_RETURN_IF_ERROR(comm.Barrier(kContext));
  }
  return absl::OkStatus();
}

class CollectivesTest : public testing::TestWithParam<std::tuple<Transport, int>> {};

TEST_P(CollectivesTest, EveryOperationAtEverySize) {
  const auto [transport, size] = GetParam();
  RecordProperty("seed", static_cast<int>(kSeed));
  const std::vector<absl::Status> statuses = RunRanks(transport, size, kDeadline, CheckEverything);
  for (int rank = 0; rank < size; ++rank) EXPECT_TRUE(statuses[rank].ok()) << statuses[rank];
  EXPECT_THAT(SegmentNames(), testing::IsEmpty());
}

// Many small rounds: the double buffer and the counters meet every interleaving that the machine
// offers.
TEST_P(CollectivesTest, ManyRoundsStayInStep) {
  const auto [transport, size] = GetParam();
  const auto body = [](Communicator& comm) -> absl::Status {
    for (int round = 0; round < 200; ++round) {
      std::vector<float> data(33, static_cast<float>(round + comm.rank()));
      TESSERA_RETURN_IF_ERROR(comm.AllReduce(kContext, Floats(data)));
      const int n = comm.size();
      const float expected = static_cast<float>(n * round + n * (n - 1) / 2);
      TESSERA_RETURN_IF_ERROR(Expect(data.front() == expected && data.back() == expected, "round",
                                     static_cast<size_t>(round), comm.rank()));
    }
    return absl::OkStatus();
  };
  for (const absl::Status& status : RunRanks(transport, size, kDeadline, body)) {
    EXPECT_TRUE(status.ok()) << status;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Transports, CollectivesTest,
    testing::Combine(testing::Values(Transport::kLoopback, Transport::kSharedThreads,
                                     Transport::kSharedProcesses, Transport::kGloo),
                     testing::Values(1, 2, 4, 8)),
    [](const auto& info) {
      return absl::StrCat(Name(std::get<0>(info.param)), std::get<1>(info.param));
    });

// The inputs must be able to tell the tree from a running sum, else the test above proves little.
TEST(TreeSumTest, ARunningSumHasOtherBits) {
  std::cout << "seed " << kSeed << "\n";
  int different = 0;
  for (size_t i = 0; i < 1000; ++i) {
    float running = 0;
    for (int r = 0; r < 8; ++r) running += Value(r, i);
    if (running != Tree(i, 0, 8)) ++different;
  }
  EXPECT_GT(different, 100);
}

}  // namespace
}  // namespace tessera
