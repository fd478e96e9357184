// What every kernel test shares: a backend as parameter, tensors uploaded through the Ops seam,
// outputs between guard bytes and poisoned with NaN before the call, and a printed seed.

#ifndef TESSERA_TESTS_KERNELS_OP_FIXTURE_H_
#define TESSERA_TESTS_KERNELS_OP_FIXTURE_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace tessera {

inline constexpr DType kF32 = DType::kFloat32;
inline constexpr DType kBf16 = DType::kBFloat16;

struct Backend {
  std::string name;
  cpu::Isa isa;
  int threads;
};

inline std::vector<Backend> Backends() {
  return {{"plain", cpu::Isa::kPlain, 1},
          {"avx2", cpu::Isa::kAvx2, 1},
          {"avx512", cpu::Isa::kAvx512, 1},
          {"three_threads", cpu::BestIsa(), 3}};
}

inline std::string BackendName(const testing::TestParamInfo<Backend>& info) {
  return info.param.name;
}

// A backend with its context and the tensors made on it.
class Device {
 public:
  static constexpr size_t kGuard = 64;  // bytes on either side of an output

  explicit Device(const Backend& backend, size_t workspace = size_t{8} << 20)
      : ops_(std::make_unique<cpu::CpuOps>(backend.isa)), threads_(backend.threads) {
    context_.threads = backend.threads > 1 ? &threads_ : nullptr;
    context_.workspace = Keep(workspace).View(DType::kUInt8, {static_cast<int64_t>(workspace)});
  }

  Ops& ops() { return *ops_; }
  const ExecContext& context() const { return context_; }

  // Uploads `values`, rounded to `dtype` (float32 or bfloat16).
  TensorView Put(DType dtype, std::initializer_list<int64_t> dims,
                 const std::vector<float>& values) {
    TensorView view(nullptr, dtype, dims);
    EXPECT_EQ(static_cast<size_t>(view.size()), values.size());
    std::vector<char> bytes(view.bytes());
    for (size_t i = 0; i < values.size(); ++i) {
      const BFloat16 narrow = ToBFloat16(values[i]);
      if (dtype == DType::kBFloat16) std::memcpy(&bytes[2 * i], &narrow, 2);
      if (dtype == DType::kFloat32) std::memcpy(&bytes[4 * i], &values[i], 4);
    }
    view.data = Keep(bytes.size()).data();
    ops_->CopyToDevice(context_, view.data, bytes.data(), bytes.size());
    return view;
  }
  TensorView PutInts(std::initializer_list<int64_t> dims, const std::vector<int32_t>& values) {
    TensorView view(nullptr, DType::kInt32, dims);
    view.data = Keep(view.bytes()).data();
    ops_->CopyToDevice(context_, view.data, values.data(), view.bytes());
    return view;
  }
  // Memory full of NaN between guards.
  TensorView Output(DType dtype, std::initializer_list<int64_t> dims) {
    TensorView view(nullptr, dtype, dims);
    const size_t bytes = view.bytes() + 2 * kGuard;
    char* base = static_cast<char*>(Keep(bytes).data());
    std::vector<uint8_t> fill(bytes, 0xff);
    for (size_t i = 0; i < kGuard; ++i) fill[i] = fill[bytes - 1 - i] = Pattern(i);
    ops_->CopyToDevice(context_, base, fill.data(), bytes);
    view.data = base + kGuard;
    return view;
  }
  // The numbers of a view (float32 or bfloat16), row by row. Checks the guards of an Output.
  std::vector<float> Get(const TensorView& view, bool guarded = true) {
    if (guarded) CheckGuards(view);
    std::vector<float> values;
    const int64_t inner = view.dims[1] * view.dims[2] * view.dims[3];
    const int64_t size = static_cast<int64_t>(DTypeSize(view.dtype));
    std::vector<char> row(static_cast<size_t>(inner * size));
    for (int64_t r = 0; r < view.dims[0]; ++r) {
      ops_->CopyToHost(context_, row.data(), view.as<char>() + r * view.stride * size, row.size());
      for (int64_t i = 0; i < inner; ++i) {
        float wide;
        BFloat16 narrow;
        if (view.dtype == DType::kBFloat16) {
          std::memcpy(&narrow, &row[static_cast<size_t>(2 * i)], 2);
          wide = ToFloat(narrow);
        } else {
          std::memcpy(&wide, &row[static_cast<size_t>(4 * i)], 4);
        }
        values.push_back(wide);
      }
    }
    return values;
  }
  std::unique_ptr<Weight> PutWeight(const WeightShape& shape, TensorView rows) {
    auto weight = ops_->NewWeight(shape);
    EXPECT_TRUE(weight.ok()) << weight.status();
    ops_->PackRows(**weight, 0, rows);
    return *std::move(weight);
  }

 private:
  static uint8_t Pattern(size_t i) { return static_cast<uint8_t>(0xa5 ^ i); }
  Buffer& Keep(size_t bytes) {
    buffers_.push_back(*ops_->Allocate(bytes));
    return buffers_.back();
  }
  void CheckGuards(const TensorView& view) {
    std::vector<uint8_t> bytes(view.bytes() + 2 * kGuard);
    ops_->CopyToHost(context_, bytes.data(), view.as<char>() - kGuard, bytes.size());
    for (size_t i = 0; i < kGuard; ++i) {
      ASSERT_EQ(bytes[i], Pattern(i)) << "written " << kGuard - i << " bytes before the output";
      ASSERT_EQ(bytes[bytes.size() - 1 - i], Pattern(i))
          << "written " << kGuard - i << " bytes behind the output";
    }
  }

  std::unique_ptr<Ops> ops_;
  ThreadPool threads_;
  ExecContext context_;
  std::deque<Buffer> buffers_;
};

// Normal numbers from a printed seed.
class Numbers {
 public:
  explicit Numbers(uint32_t seed) : engine_(seed) {
    testing::Test::RecordProperty("seed", static_cast<int>(seed));
    std::printf("seed %u\n", seed);
  }
  std::vector<float> Normal(int64_t n, float scale = 1.0f) {
    std::vector<float> values(static_cast<size_t>(n));
    std::normal_distribution<float> normal(0.0f, scale);
    for (float& value : values) value = normal(engine_);
    return values;
  }
  int64_t Below(int64_t n) { return std::uniform_int_distribution<int64_t>(0, n - 1)(engine_); }
  std::mt19937& engine() { return engine_; }

 private:
  std::mt19937 engine_;
};

class OpTest : public testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    if (!cpu::IsaSupported(GetParam().isa)) GTEST_SKIP() << "not on this CPU";
  }
};

// What a value becomes when stored as dtype.
inline float Rounded(DType dtype, float x) {
  return dtype == DType::kBFloat16 ? ToFloat(ToBFloat16(x)) : x;
}

inline std::vector<float> Rounded(DType dtype, std::vector<float> x) {
  for (float& value : x) value = Rounded(dtype, value);
  return x;
}

// One rounding to dtype of a result near `x`, and float32 noise of size `noise`.
inline double Tolerance(DType dtype, double x, double noise) {
  return noise + (dtype == DType::kBFloat16 ? std::fabs(x) * 0x1p-8 : std::fabs(x) * 0x1p-22);
}

inline void ExpectSameBits(const std::vector<float>& a, const std::vector<float>& b,
                           const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    uint32_t bits_a;
    uint32_t bits_b;
    std::memcpy(&bits_a, &a[i], 4);
    std::memcpy(&bits_b, &b[i], 4);
    ASSERT_EQ(bits_a, bits_b) << what << ": element " << i << ", " << a[i] << " and " << b[i];
  }
}

}  // namespace tessera

#endif  // TESSERA_TESTS_KERNELS_OP_FIXTURE_H_
