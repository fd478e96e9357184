// A second opinion on the product: oneDNN's float32 matmul on a size that no one checks by hand.

#include "dnnl.h"
#include "tests/kernels/op_fixture.h"

namespace tessera {
namespace {

TEST(OneDnn, AgreesOnAProduct) {
  Numbers numbers(21);
  constexpr int64_t kRows = 37;
  constexpr int64_t kOutputs = 517;
  constexpr int64_t kInputs = 1031;
  const auto x = numbers.Normal(kRows * kInputs);
  const auto w = numbers.Normal(kOutputs * kInputs);
  std::vector<float> want(kRows * kOutputs);
  ASSERT_EQ(dnnl_sgemm('N', 'T', kRows, kOutputs, kInputs, 1.0f, x.data(), kInputs, w.data(),
                       kInputs, 0.0f, want.data(), kOutputs),
            dnnl_success);
  Device device({"best", cpu::BestIsa(), 2});
  const auto weight =
      device.PutWeight({.rows = kOutputs, .columns = kInputs, .dtype = DType::kFloat32},
                       device.Put(DType::kFloat32, {kOutputs, kInputs}, w));
  const TensorView out = device.Output(DType::kFloat32, {kRows, kOutputs});
  device.ops().MatMul(device.context(), out, device.Put(DType::kFloat32, {kRows, kInputs}, x),
                      *weight, TensorView());
  const auto got = device.Get(out);
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-3) << i;
}

}  // namespace
}  // namespace tessera
