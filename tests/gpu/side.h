// One of the two backends that a case runs on: the CPU, which is the oracle, and the device under
// test. Tensors go through the Ops seam; outputs lie between guard bytes and are full of NaN before
// the call. Inputs are random, from a seed that is printed (TESSERA_GPU_SEED plays one again).
//
// TESSERA_GPU_TEST_ON=cpu puts the CPU on both sides: then the cases themselves are tested.

#ifndef TESSERA_TESTS_GPU_SIDE_H_
#define TESSERA_TESTS_GPU_SIDE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace tessera::gpu {

inline constexpr DType kF32 = DType::kFloat32;
inline constexpr DType kBf16 = DType::kBFloat16;
inline constexpr DType kFp8 = DType::kFloat8E4M3;

class Side {
 public:
  static constexpr size_t kGuard = 64;  // bytes on either side of an output

  explicit Side(std::unique_ptr<Ops> ops, size_t workspace = size_t{64} << 20);

  Ops& ops() { return *ops_; }
  ExecContext& context() { return context_; }

  // Uploads `values`, rounded to `dtype` (float32 or bfloat16).
  TensorView Put(DType dtype, std::initializer_list<int64_t> dims,
                 const std::vector<float>& values);
  TensorView PutInts(std::initializer_list<int64_t> dims, const std::vector<int32_t>& values);
  // Memory full of NaN between guards.
  TensorView Output(DType dtype, std::initializer_list<int64_t> dims);
  // The numbers of a view, row by row. Checks the guards of an Output.
  std::vector<float> Get(const TensorView& view, bool guarded = true);
  // [rows, columns], rounded to the shape's dtype.
  std::unique_ptr<Weight> PutWeight(const WeightShape& shape, const std::vector<float>& values);

 private:
  Buffer& Keep(size_t bytes);
  void CheckGuards(const TensorView& view);

  std::unique_ptr<Ops> ops_;
  ExecContext context_;
  std::deque<Buffer> buffers_;
};

// The device under test, or why there is none.
absl::StatusOr<std::unique_ptr<Ops>> NewTestedOps();
bool TestedIsCpu();

// Skips where there is no GPU.
class GpuTest : public testing::Test {
 protected:
  void SetUp() override;
  // Both, made when first asked for.
  Side& oracle();
  Side& tested();
  std::mt19937& random() { return random_; }
  uint32_t seed() const { return seed_; }

  std::vector<float> Normal(int64_t n, float scale = 1.0f);

 private:
  uint32_t seed_ = 0;
  std::mt19937 random_;
  std::unique_ptr<Side> oracle_;
  std::unique_ptr<Side> tested_;
};

// What a value becomes when stored as dtype.
float Rounded(DType dtype, float x);

// |got - want| <= absolute + relative * |want|, plus one rounding to dtype; NaN equals NaN only.
void ExpectNear(const std::vector<float>& got, const std::vector<float>& want, DType dtype,
                double absolute, double relative, const std::string& what);
void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& want,
                    const std::string& what);

}  // namespace tessera::gpu

#endif  // TESSERA_TESTS_GPU_SIDE_H_
