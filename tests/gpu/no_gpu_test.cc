// What can be said without a GPU: every way in which one cannot be used has its own clear message.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/runtime.h"
#include "kernels/device_readings.h"
#include "kernels/shared_library.h"
#include "worker/comm/nccl.h"
#include "worker/device.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(NoGpuTest, DriverVersions) {
  const absl::Status none = cuda::CheckDriver(0, 13000);
  EXPECT_EQ(none.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(none.message(), HasSubstr("no NVIDIA driver"));
  const absl::Status old = cuda::CheckDriver(12080, 13000);
  EXPECT_EQ(old.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(old.message(), HasSubstr("speaks CUDA 12.8"));
  EXPECT_THAT(old.message(), HasSubstr("needs CUDA 13.0"));
  EXPECT_TRUE(cuda::CheckDriver(13000, 13020).ok()) << "same major version";
  EXPECT_TRUE(cuda::CheckDriver(14000, 13000).ok());
}

TEST(NoGpuTest, Architectures) {
  EXPECT_THAT(cuda::CheckArchitecture("NVIDIA A100", 8, 0).message(),
              HasSubstr("NVIDIA A100 has compute capability 8.0"));
  EXPECT_TRUE(cuda::CheckArchitecture("NVIDIA H200", 9, 0).ok());
  EXPECT_TRUE(cuda::CheckArchitecture("later", 10, 3).ok());
}

TEST(NoGpuTest, DeviceNumbers) {
  EXPECT_THAT(cuda::CheckDeviceNumber(3, 2).message(), HasSubstr("2 GPUs, numbers 0 to 1"));
  EXPECT_THAT(cuda::CheckDeviceNumber(1, 1).message(), HasSubstr("1 GPU, number 0"));
  EXPECT_TRUE(cuda::CheckDeviceNumber(1, 2).ok());
}

TEST(NoGpuTest, RuntimeErrors) {
  EXPECT_TRUE(cuda::StatusOf(cudaSuccess, "sing").ok());
  const absl::Status memory = cuda::StatusOf(cudaErrorMemoryAllocation, "allocate 12 bytes");
  EXPECT_EQ(memory.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(memory.message(), HasSubstr("allocate 12 bytes"));
  EXPECT_THAT(memory.message(), HasSubstr("smaller KV cache"));
  EXPECT_EQ(cuda::StatusOf(cudaErrorNoDevice, "x").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(cuda::StatusOf(cudaErrorNoKernelImageForDevice, "x").code(),
            absl::StatusCode::kFailedPrecondition);
  const absl::Status fault = cuda::StatusOf(cudaErrorIllegalAddress, "multiply");
  EXPECT_EQ(fault.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(fault.message(), HasSubstr("cudaErrorIllegalAddress"));
}

TEST(NoGpuTest, NcclVersions) {
  EXPECT_TRUE(CheckNcclVersion(0, 23007, 23007).ok());
  EXPECT_THAT(CheckNcclVersion(1, 22807, 22807).message(),
              HasSubstr("rank 1 has NCCL 2.28.7; 2.30.3 or later is needed"));
  EXPECT_THAT(CheckNcclVersion(2, 23102, 23007).message(),
              HasSubstr("rank 2 has NCCL 2.31.2, rank 0 has 2.30.7"));
}

TEST(NoGpuTest, LibrariesThatAreNowhereSaySo) {
  const auto library = SharedLibrary::Open({"libthere-is-none.so.7"});
  EXPECT_EQ(library.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(library.status().message(), HasSubstr("libthere-is-none.so.7 is nowhere"));
  EXPECT_THAT(library.status().message(), HasSubstr("LD_LIBRARY_PATH"));
}

TEST(NoGpuTest, AMachineWithoutOneIsToldSo) {
  if (DescribeCudaDevice(0).ok()) GTEST_SKIP() << "this machine has a GPU";
  const absl::Status status = Device::Open("cuda:0", 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(status.message(), HasSubstr("--device cpu"));
  EXPECT_TRUE(Device::Open("auto", 1).ok()) << "auto falls back where there is no GPU at all";
}

TEST(NoGpuTest, CpuLists) {
  std::vector<int> cpus;
  EXPECT_TRUE(ParseCpuList("0-2,8\n", cpus));
  EXPECT_THAT(cpus, ElementsAre(0, 1, 2, 8));
  EXPECT_FALSE(ParseCpuList("", cpus));
  EXPECT_FALSE(ParseCpuList("3-1", cpus));
  EXPECT_FALSE(ParseCpuList("a", cpus));
}

TEST(NoGpuTest, WeightsOfRealModelsArePlainMatrices) {
  const auto layout = cuda::WeightLayout::Of({.rows = 6144, .columns = 4096});
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->packed_columns, 4096);
  EXPECT_EQ(layout->slices.size(), 8u);
  const auto shard = cuda::WeightLayout::Of(
      {.rows = 4096, .columns = 3584, .column_begin = 7168, .column_total = 14336});
  ASSERT_TRUE(shard.ok());
  EXPECT_EQ(shard->packed_columns, 3584);
  EXPECT_EQ(shard->slices.size(), 2u);
}

TEST(NoGpuTest, RaggedSlicesAreFilledUpWithZeros) {
  const WeightShape shape{.rows = 2, .columns = 10, .column_begin = 10, .column_total = 20};
  auto layout = cuda::WeightLayout::Of(shape);
  ASSERT_TRUE(layout.ok()) << layout.status();
  ASSERT_EQ(layout->slices.size(), 4u);
  // Slices of 20 begin at 10, 12, 15, 17.
  EXPECT_EQ(layout->slices[1].x_begin, 2);
  EXPECT_EQ(layout->slices[1].count, 3);
  EXPECT_EQ(layout->slices[1].packed_begin, 64);
  const cuda::CudaWeight weight(shape, *layout, Buffer());
  std::vector<float> source(20);
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<float>(i + 1);
  std::vector<BFloat16> packed(2 * 256, BFloat16{0x7fc0});
  weight.PackTo(packed.data(), TensorView(source.data(), DType::kFloat32, {2, 10}));
  for (int row = 0; row < 2; ++row) {
    float sum = 0;
    for (int k = 0; k < 256; ++k) sum += ToFloat(packed[row * 256 + k]);
    EXPECT_EQ(sum, row == 0 ? 55.0f : 155.0f) << "everything once, zeros elsewhere";
    EXPECT_EQ(ToFloat(packed[row * 256 + 64]), static_cast<float>(row * 10 + 3));
  }
}

}  // namespace
}  // namespace tessera
