// Building a communicator from options and blobs that are wrong in every way, and from the few that
// need nobody else.

#include "worker/comm/comm_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "fake_ops.h"
#include "rank_harness.h"
#include "worker/comm/blob.h"

namespace tessera {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

class DamagedBlobTest : public testing::TestWithParam<Transport> {
 protected:
  // Connects rank 1 with what `damage` made of the hellos; nobody else comes.
  absl::Status ConnectWith(const std::function<void(std::vector<std::string>&)>& damage) {
    FakeOps ops;
    std::vector<CommBuilder> builders;
    std::vector<std::string> blobs;
    for (int rank = 0; rank < 2; ++rank) {
      CommOptions options = OptionsFor(GetParam(), rank, 2, absl::Seconds(1));
      options.connect_deadline = absl::Milliseconds(100);
      builders.push_back(*CommBuilder::Create(options, ops));
      blobs.push_back(builders.back().hello());
    }
    damage(blobs);
    return std::move(builders[1]).Connect(blobs).status();
  }
};

TEST_P(DamagedBlobTest, EveryFlippedBitAndEveryCutIsRefused) {
  size_t bytes = 0;
  ConnectWith([&](auto& blobs) { bytes = blobs[0].size(); }).IgnoreError();
  ASSERT_GT(bytes, 40);
  FakeOps ops;
  std::vector<std::string> good;
  for (int rank = 0; rank < 2; ++rank) {
    good.push_back(
        CommBuilder::Create(OptionsFor(GetParam(), rank, 2, absl::Seconds(1)), ops)->hello());
  }
  const BlobIdentity self{OptionsFor(GetParam(), 1, 2, absl::Seconds(1)).kind, 1, 2};
  ASSERT_TRUE(DecodeBlobs(self, good).ok());
  for (size_t i = 0; i < good[0].size(); ++i) {
    std::vector<std::string> bad = good;
    bad[0][i] ^= static_cast<char>(1 << (i % 8));
    EXPECT_EQ(DecodeBlobs(self, bad).status().code(), absl::StatusCode::kInvalidArgument) << i;
    bad[0].resize(i);
    EXPECT_EQ(DecodeBlobs(self, bad).status().code(), absl::StatusCode::kInvalidArgument) << i;
  }
}

TEST_P(DamagedBlobTest, WhatIsWrongIsSaid) {
  using Blobs = std::vector<std::string>;
  const auto kind = OptionsFor(GetParam(), 0, 2, absl::Seconds(1)).kind;
  const auto message = [&](const std::function<void(Blobs&)>& damage) {
    return std::string(ConnectWith(damage).message());
  };
  EXPECT_THAT(message([](Blobs& b) { b[0].clear(); }), HasSubstr("rank 0"));
  EXPECT_THAT(message([](Blobs& b) { b.pop_back(); }), HasSubstr("1 ranks"));
  EXPECT_THAT(message([](Blobs& b) { b[0].resize(1 << 20); }), HasSubstr("at most"));
  EXPECT_THAT(message([](Blobs& b) { std::swap(b[0], b[1]); }), HasSubstr("expected rank 0"));
  EXPECT_THAT(message([&](Blobs& b) {
                b[0] = EncodeBlob({kind, 0, 2}, "rubbish");
              }),
              HasSubstr("damaged"));
  EXPECT_THAT(message([&](Blobs& b) {
                b[0] = EncodeBlob({cluster::v1::COMM_NCCL, 0, 2}, "");
              }),
              HasSubstr("transport"));
}

INSTANTIATE_TEST_SUITE_P(Transports, DamagedBlobTest,
                         testing::Values(Transport::kSharedThreads, Transport::kGloo),
                         [](const auto& info) { return std::string(Name(info.param)); });

// A payload of shared memory with a good checksum but a hostile name.
TEST(HostileBlobTest, OnlyOurSegmentsAreOpened) {
  FakeOps ops;
  const CommOptions options = OptionsFor(Transport::kSharedThreads, 1, 2, absl::Seconds(1));
  for (const std::string name :
       {"/other", "/tessera-comm-/../x", "/tessera-comm-0-0000000000000000", ""}) {
    auto builder = CommBuilder::Create(options, ops);
    std::string boot_id, payload;
    std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot_id);
    AppendString(payload, boot_id);
    AppendUint64(payload, 1);
    AppendUint64(payload, 1);
    AppendString(payload, name);
    AppendUint64(payload, 1);
    const std::string hostile = EncodeBlob({options.kind, 0, 2}, payload);
    const auto status = std::move(*builder).Connect({hostile, builder->hello()}).status();
    EXPECT_THAT(status.code(),
                AnyOf(absl::StatusCode::kInvalidArgument, absl::StatusCode::kFailedPrecondition))
        << name << ": " << status;
  }
}

TEST(HostileBlobTest, AnotherHostIsToldSo) {
  FakeOps ops;
  const CommOptions options = OptionsFor(Transport::kSharedThreads, 1, 2, absl::Seconds(1));
  auto builder = CommBuilder::Create(options, ops);
  std::string payload;
  AppendString(payload, "another boot id");
  AppendUint64(payload, 1);
  AppendUint64(payload, 1);
  AppendString(payload, "/tessera-comm-x");
  AppendUint64(payload, 1);
  const std::string blob = EncodeBlob({options.kind, 0, 2}, payload);
  const auto status = std::move(*builder).Connect({blob, builder->hello()}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("another host"));
}

TEST(CommBuilderTest, ImpossibleOptionsAreRefused) {
  FakeOps ops;
  const auto code = [&](const CommOptions& options) {
    return CommBuilder::Create(options, ops).status().code();
  };
  using cluster::v1::COMM_GLOO, cluster::v1::COMM_NCCL, cluster::v1::COMM_SHARED_MEMORY;
  EXPECT_EQ(code({.kind = COMM_SHARED_MEMORY, .rank = 0, .size = 3}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.kind = COMM_SHARED_MEMORY, .rank = 2, .size = 2}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.rank = 2, .size = 2}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.kind = COMM_GLOO, .rank = 0, .size = 2}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.kind = COMM_GLOO, .size = 2, .gloo_host = "192.0.2.1"}),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(code({.call_deadline = absl::InfiniteDuration()}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.connect_deadline = absl::ZeroDuration()}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.kind = COMM_NCCL, .rank = 0, .size = 2}), absl::StatusCode::kUnimplemented);
}

TEST(CommBuilderTest, SoloNeedsNobody) {
  FakeOps ops;
  auto builder = CommBuilder::Create({}, ops);
  ASSERT_TRUE(builder.ok());
  const std::string hello = builder->hello();
  auto comm = std::move(*builder).Connect({hello});
  ASSERT_TRUE(comm.ok()) << comm.status();
  EXPECT_EQ((*comm)->size(), 1);
  EXPECT_TRUE((*comm)->Barrier(ExecContext()).ok());
  (*comm)->Abort();
  EXPECT_FALSE((*comm)->Barrier(ExecContext()).ok());
}

// One rank of a larger group, alone: its own part stands for everybody's.
TEST(CommBuilderTest, SoloRankDoesTheLocalPart) {
  FakeOps ops;
  auto builder = CommBuilder::Create({.kind = cluster::v1::COMM_SOLO, .rank = 3, .size = 8}, ops);
  ASSERT_TRUE(builder.ok()) << builder.status();
  auto comm = std::move(*builder).Connect({builder->hello()});
  ASSERT_TRUE(comm.ok()) << comm.status();
  EXPECT_EQ((*comm)->size(), 8);
  EXPECT_EQ((*comm)->rank(), 3);
  const int32_t own = 17;
  int32_t all[8] = {};
  ASSERT_TRUE((*comm)->AllGatherHost(all, &own, sizeof(own)).ok());
  for (const int32_t part : all) EXPECT_EQ(part, 17);
  float data[2] = {1.5f, -2.0f};
  ASSERT_TRUE((*comm)->AllReduce({}, TensorView(data, DType::kFloat32, {2})).ok());
  EXPECT_EQ(data[0], 1.5f);
  EXPECT_EQ((*comm)->Send({}, TensorView(data, DType::kFloat32, {2}), 0).code(),
            absl::StatusCode::kUnimplemented);
}

TEST(CommBuilderTest, SoloRankRefusesCompany) {
  FakeOps ops;
  const auto make = [&](int rank) {
    return *CommBuilder::Create({.kind = cluster::v1::COMM_SOLO, .rank = rank, .size = 2}, ops);
  };
  CommBuilder first = make(0);
  const std::vector<std::string> blobs = {first.hello(), make(1).hello()};
  EXPECT_EQ(std::move(first).Connect(blobs).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CommBuilderTest, AddressTowardsTheLoopbackIsTheLoopback) {
  EXPECT_EQ(AddressTowards("127.0.0.1:1").value_or(""), "127.0.0.1");
  EXPECT_FALSE(AddressTowards("127.0.0.1").ok());
}

}  // namespace
}  // namespace tessera
