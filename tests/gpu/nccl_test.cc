// NCCL with several ranks on one GPU, as threads of this process with a stream each: every
// operation against a reference, and what happens when a rank does not come or gives up. This
// proves protocol and arithmetic, not speed: nothing crosses NVLink here.

#include <gmock/gmock.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "tests/gpu/side.h"
#include "worker/comm/comm_builder.h"

namespace tessera::gpu {
namespace {

using RankBody = std::function<absl::Status(Communicator& comm, Ops& ops)>;

constexpr absl::Duration kDeadline = absl::Seconds(10);

// Element i of rank r: magnitudes mixed, so that another order of additions gives other bits.
float Value(int rank, size_t i) {
  uint32_t x = static_cast<uint32_t>(i) * 2654435761u + static_cast<uint32_t>(rank) * 40503u;
  x ^= x >> 15;
  x *= 2246822519u;
  x ^= x >> 13;
  return (static_cast<float>(x >> 8) * 0x1p-24f - 0.5f) * static_cast<float>(1u << (x % 20));
}

float Tree(size_t i, int begin, int end) {
  if (end - begin == 1) return Value(begin, i);
  const int middle = (begin + end) / 2;
  return Tree(i, begin, middle) + Tree(i, middle, end);
}

class GpuNcclTest : public GpuTest {
 protected:
  void SetUp() override {
    // Before NCCL reads them; the grids of all ranks must fit onto the GPU at once.
    setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 1);
    setenv("NCCL_MAX_CTAS", "4", 0);
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    GpuTest::SetUp();
    if (TestedIsCpu()) GTEST_SKIP() << "NCCL needs a GPU";
  }

  std::vector<absl::Status> Run(int size, absl::Duration deadline, const RankBody& body) {
    std::vector<std::unique_ptr<Ops>> ops;
    std::vector<CommBuilder> builders;
    std::vector<std::string> blobs;
    for (int rank = 0; rank < size; ++rank) {
      ops.push_back(*NewTestedOps());
      const CommOptions options{
          .kind = cluster::v1::COMM_NCCL, .rank = rank, .size = size, .call_deadline = deadline};
      auto builder = CommBuilder::Create(options, *ops.back());
      TESSERA_CHECK(builder.ok()) << builder.status();
      blobs.push_back(builder->hello());
      builders.push_back(*std::move(builder));
    }
    std::vector<absl::Status> statuses(size);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        statuses[rank] = [&]() -> absl::Status {
          // Makes the GPU current on this thread.
          TESSERA_RETURN_IF_ERROR(ops[rank]->Synchronize({}));
          TESSERA_ASSIGN_OR_RETURN(auto comm, std::move(builders[rank]).Connect(blobs));
          return body(*comm, *ops[rank]);
        }();
      });
    }
    for (std::thread& thread : threads) thread.join();
    return statuses;
  }
};

// Device memory with values, for one rank.
struct Floats {
  Floats(Ops& ops_in, size_t n_in) : ops(ops_in), n(n_in), buffer(*ops.Allocate(n * 4)) {}
  TensorView view() const { return buffer.View(DType::kFloat32, {static_cast<int64_t>(n)}); }
  void Set(int rank) {
    std::vector<float> values(n);
    for (size_t i = 0; i < n; ++i) values[i] = Value(rank, i);
    ops.CopyToDevice({}, buffer.data(), values.data(), n * 4);
  }
  std::vector<float> Get() const {
    std::vector<float> values(n);
    ops.CopyToHost({}, values.data(), buffer.data(), n * 4);
    return values;
  }
  Ops& ops;
  const size_t n;
  const Buffer buffer;
};

absl::Status Wrong(const char* what, size_t n, int rank) {
  return absl::InternalError(absl::StrCat(what, " is wrong at size ", n, " on rank ", rank));
}

absl::Status CheckEverything(Communicator& comm, Ops& ops, size_t n) {
  Floats data(ops, n);
  data.Set(comm.rank());
  TESSERA_RETURN_IF_ERROR(comm.AllReduce({}, data.view()));
  const std::vector<float> sum = data.Get();
  for (size_t i = 0; i < n; ++i) {
    const float want = Tree(i, 0, comm.size());
    if (std::memcmp(&sum[i], &want, 4) != 0) return Wrong("sum", n, comm.rank());
  }
  data.Set(comm.rank());
  Floats all(ops, n * comm.size());
  TESSERA_RETURN_IF_ERROR(comm.AllGather({}, all.view(), data.view()));
  const std::vector<float> gathered = all.Get();
  for (size_t i = 0; i < gathered.size(); ++i) {
    if (gathered[i] != Value(static_cast<int>(i / n), i % n)) {
      return Wrong("all-gather", n, comm.rank());
    }
  }
  TESSERA_RETURN_IF_ERROR(comm.Broadcast({}, data.view(), comm.size() - 1));
  const std::vector<float> told = data.Get();
  for (size_t i = 0; i < n; ++i) {
    if (told[i] != Value(comm.size() - 1, i)) return Wrong("broadcast", n, comm.rank());
  }
  std::vector<int64_t> numbers(comm.size());
  const int64_t mine = comm.rank() * 7 + static_cast<int64_t>(n);
  TESSERA_RETURN_IF_ERROR(comm.AllGatherHost(numbers.data(), &mine, sizeof(mine)));
  for (int r = 0; r < comm.size(); ++r) {
    if (numbers[r] != r * 7 + static_cast<int64_t>(n)) return Wrong("host gather", n, comm.rank());
  }
  if (comm.size() == 2) {
    const int peer = 1 - comm.rank();
    data.Set(comm.rank());
    if (comm.rank() == 0) {
      TESSERA_RETURN_IF_ERROR(comm.Send({}, data.view(), peer));
    } else {
      TESSERA_RETURN_IF_ERROR(comm.Receive({}, data.view(), peer));
      if (data.Get()[n - 1] != Value(0, n - 1)) return Wrong("receive", n, comm.rank());
    }
  }
  return comm.Barrier({});
}

TEST_F(GpuNcclTest, EveryOperationAtEverySize) {
  for (const int size : {1, 2, 4}) {
    const auto statuses = Run(size, kDeadline, [](Communicator& comm, Ops& ops) {
      for (const size_t n : {1, 7, 4096, 65537, 1000003, 3000001}) {
        TESSERA_RETURN_IF_ERROR(CheckEverything(comm, ops, n));
      }
      return absl::OkStatus();
    });
    for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << size << ": " << status;
  }
}

TEST_F(GpuNcclTest, FusedNormEqualsSumThenNorm) {
  const auto statuses = Run(2, kDeadline, [](Communicator& comm, Ops& ops) -> absl::Status {
    for (const int64_t rows : {1, 3, 64}) {
      constexpr int64_t kColumns = 4096;
      const size_t n = static_cast<size_t>(rows * kColumns);
      std::vector<float> results[2];
      for (const bool fused : {true, false}) {
        Floats partial(ops, n), weight(ops, kColumns), residual(ops, n), out(ops, n);
        partial.Set(comm.rank());
        weight.Set(3);
        residual.Set(4);
        const auto matrix = [&](Floats& floats) {
          return floats.buffer.View(DType::kFloat32, {rows, kColumns});
        };
        const NormSpec norm{.weight = weight.view(), .eps = 1e-5f};
        if (fused) {
          TESSERA_RETURN_IF_ERROR(comm.AllReduceResidualNorm({}, matrix(out), matrix(residual),
                                                             matrix(partial), {}, norm));
        } else {
          TESSERA_RETURN_IF_ERROR(comm.AllReduce({}, partial.view()));
          ops.AddResidualNorm({}, matrix(out), matrix(residual), matrix(partial), {}, norm);
        }
        results[fused] = out.Get();
      }
      if (std::memcmp(results[0].data(), results[1].data(), n * 4) != 0) {
        return Wrong("fused norm", n, comm.rank());
      }
    }
    return absl::OkStatus();
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

// Rank 1 stays away from a collective that rank 0 has queued: rank 0 gets its stream back in time.
TEST_F(GpuNcclTest, ARankThatStaysAwayIsADeadline) {
  const absl::Duration deadline = absl::Seconds(2);
  const auto statuses = Run(2, deadline, [&](Communicator& comm, Ops& ops) -> absl::Status {
    TESSERA_RETURN_IF_ERROR(comm.Barrier({}));
    if (comm.rank() == 1) {
      absl::SleepFor(2 * deadline);
      return absl::OkStatus();
    }
    Floats data(ops, 4096);
    data.Set(0);
    const absl::Time begin = absl::Now();
    TESSERA_RETURN_IF_ERROR(comm.AllReduce({}, data.view()));
    TESSERA_RETURN_IF_ERROR(ops.Synchronize({}));
    const absl::Status late = comm.Barrier({});
    EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
    EXPECT_LT(absl::Now() - begin, 2 * deadline);
    return absl::OkStatus();
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

TEST_F(GpuNcclTest, AbortEndsACollectiveUnderWay) {
  const auto statuses =
      Run(2, absl::Seconds(30), [&](Communicator& comm, Ops& ops) -> absl::Status {
        TESSERA_RETURN_IF_ERROR(comm.Barrier({}));
        if (comm.rank() == 1) {
          absl::SleepFor(absl::Seconds(1));
          return absl::OkStatus();
        }
        Floats data(ops, 4096);
        data.Set(0);
        const absl::Time begin = absl::Now();
        TESSERA_RETURN_IF_ERROR(comm.AllReduce({}, data.view()));
        std::thread other([&comm] {
          absl::SleepFor(absl::Milliseconds(200));
          comm.Abort();
        });
        const absl::Status synchronized = ops.Synchronize({});
        other.join();
        EXPECT_TRUE(synchronized.ok()) << synchronized;
        EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
        EXPECT_EQ(comm.Barrier({}).code(), absl::StatusCode::kUnavailable);
        return absl::OkStatus();
      });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

TEST_F(GpuNcclTest, ARankThatNeverConnectsIsADeadline) {
  auto ops = *NewTestedOps();
  CommOptions options{.kind = cluster::v1::COMM_NCCL, .rank = 0, .size = 2};
  options.connect_deadline = absl::Seconds(2);
  auto first = CommBuilder::Create(options, *ops);
  ASSERT_TRUE(first.ok()) << first.status();
  options.rank = 1;
  auto second = CommBuilder::Create(options, *ops);
  ASSERT_TRUE(second.ok()) << second.status();
  const std::vector<std::string> blobs = {first->hello(), second->hello()};
  EXPECT_EQ((*std::move(first)).Connect(blobs).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace tessera::gpu
