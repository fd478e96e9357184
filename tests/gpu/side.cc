// See the header.

#include "tests/gpu/side.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"

namespace tessera::gpu {
namespace {

uint8_t Pattern(size_t i) { return static_cast<uint8_t>(0xa5 ^ i); }

std::vector<char> Encode(DType dtype, const std::vector<float>& values) {
  std::vector<char> bytes(values.size() * DTypeSize(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    const BFloat16 narrow = ToBFloat16(values[i]);
    if (dtype == kBf16) std::memcpy(&bytes[2 * i], &narrow, 2);
    if (dtype == kF32) std::memcpy(&bytes[4 * i], &values[i], 4);
  }
  return bytes;
}

}  // namespace

Side::Side(std::unique_ptr<Ops> ops, size_t workspace) : ops_(std::move(ops)) {
  context_.workspace = Keep(workspace).View(DType::kUInt8, {static_cast<int64_t>(workspace)});
}

Buffer& Side::Keep(size_t bytes) {
  absl::StatusOr<Buffer> buffer = ops_->Allocate(bytes);
  TESSERA_CHECK(buffer.ok()) << buffer.status();
  buffers_.push_back(*std::move(buffer));
  return buffers_.back();
}

TensorView Side::Put(DType dtype, std::initializer_list<int64_t> dims,
                     const std::vector<float>& values) {
  TensorView view(nullptr, dtype, dims);
  EXPECT_EQ(static_cast<size_t>(view.size()), values.size());
  const std::vector<char> bytes = Encode(dtype, values);
  view.data = Keep(bytes.size()).data();
  ops_->CopyToDevice(context_, view.data, bytes.data(), bytes.size());
  return view;
}

TensorView Side::PutInts(std::initializer_list<int64_t> dims, const std::vector<int32_t>& values) {
  TensorView view(nullptr, DType::kInt32, dims);
  EXPECT_EQ(static_cast<size_t>(view.size()), values.size());
  view.data = Keep(view.bytes()).data();
  ops_->CopyToDevice(context_, view.data, values.data(), view.bytes());
  return view;
}

TensorView Side::Output(DType dtype, std::initializer_list<int64_t> dims) {
  TensorView view(nullptr, dtype, dims);
  const size_t bytes = view.bytes() + 2 * kGuard;
  char* base = static_cast<char*>(Keep(bytes).data());
  std::vector<uint8_t> fill(bytes, 0xff);
  for (size_t i = 0; i < kGuard; ++i) fill[i] = fill[bytes - 1 - i] = Pattern(i);
  ops_->CopyToDevice(context_, base, fill.data(), bytes);
  view.data = base + kGuard;
  return view;
}

void Side::CheckGuards(const TensorView& view) {
  std::vector<uint8_t> bytes(view.bytes() + 2 * kGuard);
  ops_->CopyToHost(context_, bytes.data(), view.as<char>() - kGuard, bytes.size());
  for (size_t i = 0; i < kGuard; ++i) {
    ASSERT_EQ(bytes[i], Pattern(i)) << "written " << kGuard - i << " bytes before the output";
    ASSERT_EQ(bytes[bytes.size() - 1 - i], Pattern(i))
        << "written " << kGuard - i << " bytes behind the output";
  }
}

std::vector<float> Side::Get(const TensorView& view, bool guarded) {
  const absl::Status status = ops_->Synchronize(context_);
  TESSERA_CHECK(status.ok()) << status;
  if (guarded) CheckGuards(view);
  const int64_t inner = view.dims[1] * view.dims[2] * view.dims[3];
  const size_t element = DTypeSize(view.dtype);
  std::vector<float> values;
  std::vector<char> row(static_cast<size_t>(inner) * element);
  for (int64_t r = 0; r < view.dims[0]; ++r) {
    ops_->CopyToHost(context_, row.data(), view.as<char>() + r * view.stride * element, row.size());
    for (int64_t i = 0; i < inner; ++i) {
      float wide = 0;
      BFloat16 narrow;
      if (view.dtype == kBf16) {
        std::memcpy(&narrow, &row[2 * i], 2);
        wide = ToFloat(narrow);
      } else {
        std::memcpy(&wide, &row[4 * i], 4);
      }
      values.push_back(wide);
    }
  }
  return values;
}

std::unique_ptr<Weight> Side::PutWeight(const WeightShape& shape,
                                        const std::vector<float>& values) {
  auto weight = ops_->NewWeight(shape);
  TESSERA_CHECK(weight.ok()) << weight.status();
  // Float8 weights are made of wider numbers.
  const DType dtype = shape.dtype == DType::kFloat8E4M3 ? kF32 : shape.dtype;
  std::vector<char> bytes = Encode(dtype, values);
  ops_->PackRows(**weight, 0, TensorView(bytes.data(), dtype, {shape.rows, shape.columns}));
  return *std::move(weight);
}

bool TestedIsCpu() {
  const char* on = std::getenv("TESSERA_GPU_TEST_ON");
  return on != nullptr && std::string(on) == "cpu";
}

absl::StatusOr<std::unique_ptr<Ops>> NewTestedOps() {
  if (TestedIsCpu()) return NewCpuOps();
  return NewCudaOps(0);
}

void GpuTest::SetUp() {
  absl::StatusOr<std::unique_ptr<Ops>> ops = NewTestedOps();
  if (!ops.ok()) GTEST_SKIP() << ops.status().message();
  tested_ = std::make_unique<Side>(*std::move(ops));
  const char* seed = std::getenv("TESSERA_GPU_SEED");
  seed_ = seed != nullptr ? static_cast<uint32_t>(std::strtoul(seed, nullptr, 10))
                          : std::random_device()();
  random_.seed(seed_);
  std::printf("TESSERA_GPU_SEED=%u\n", seed_);
}

Side& GpuTest::oracle() {
  if (oracle_ == nullptr) oracle_ = std::make_unique<Side>(*NewCpuOps());
  return *oracle_;
}

Side& GpuTest::tested() { return *tested_; }

std::vector<float> GpuTest::Normal(int64_t n, float scale) {
  std::vector<float> values(static_cast<size_t>(n));
  std::normal_distribution<float> normal(0.0f, scale);
  for (float& value : values) value = normal(random_);
  return values;
}

float Rounded(DType dtype, float x) { return dtype == kBf16 ? ToFloat(ToBFloat16(x)) : x; }

void ExpectNear(const std::vector<float>& got, const std::vector<float>& want, DType dtype,
                double absolute, double relative, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  const double rounding = dtype == kBf16 ? 0x1p-7 : 0x1p-22;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(want[i])) {
      ASSERT_TRUE(std::isnan(got[i])) << what << ": element " << i;
      continue;
    }
    if (got[i] == want[i]) continue;
    ASSERT_NEAR(got[i], want[i], absolute + (relative + rounding) * std::fabs(want[i]))
        << what << ": element " << i << " of " << got.size();
  }
}

void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& want,
                    const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(std::memcmp(&got[i], &want[i], 4), 0)
        << what << ": element " << i << ", " << got[i] << " and " << want[i];
  }
}

}  // namespace tessera::gpu
