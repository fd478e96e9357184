// The promises about bits: a row of a product does not depend on the other rows, the instruction
// set or the threads; the sum over tensor-parallel ranks does not depend on their number; and all
// of it equals a plain loop of fused multiply-adds in order.

#include "tests/kernels/op_fixture.h"

namespace tessera {
namespace {

std::vector<Backend> Supported() {
  std::vector<Backend> supported;
  for (const Backend& backend : Backends()) {
    if (cpu::IsaSupported(backend.isa)) supported.push_back(backend);
  }
  return supported;
}

// fma over columns [begin, end) in order, from zero.
float InOrder(const float* x, const float* w, int64_t begin, int64_t end) {
  float sum = 0.0f;
  for (int64_t k = begin; k < end; ++k) sum = std::fma(x[k], w[k], sum);
  return sum;
}

std::vector<float> Product(Device& device, const std::vector<float>& x, const Weight& weight) {
  const int64_t rows = static_cast<int64_t>(x.size()) / weight.columns();
  const TensorView out = device.Output(kF32, {rows, weight.rows()});
  device.ops().MatMul(device.context(), out, device.Put(kF32, {rows, weight.columns()}, x), weight,
                      TensorView());
  return device.Get(out);
}

TEST(MatMulBits, EveryRowCountAndBackendEqualsThePlainLoop) {
  Numbers numbers(11);
  constexpr int64_t kRows = 70;
  constexpr int64_t kOutputs = 83;  // five panels and three columns
  constexpr int64_t kInputs = 131;
  for (DType dtype : {kF32, kBf16}) {
    const auto x = numbers.Normal(kRows * kInputs);
    const auto w = Rounded(dtype, numbers.Normal(kOutputs * kInputs));
    std::vector<float> want;
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t n = 0; n < kOutputs; ++n) {
        want.push_back(InOrder(&x[r * kInputs], &w[n * kInputs], 0, kInputs));
      }
    }
    for (const Backend& backend : Supported()) {
      Device device(backend);
      const auto weight = device.PutWeight({.rows = kOutputs, .columns = kInputs, .dtype = dtype},
                                           device.Put(kF32, {kOutputs, kInputs}, w));
      for (int64_t rows = 1; rows <= kRows; ++rows) {
        const std::vector<float> some(x.begin(), x.begin() + rows * kInputs);
        ExpectSameBits(Product(device, some, *weight),
                       {want.begin(), want.begin() + rows * kOutputs},
                       backend.name + " " + DTypeName(dtype) + " rows " + std::to_string(rows));
      }
    }
  }
}

// Large enough that the pool really splits it: the threads' parts meet without a seam.
TEST(MatMulBits, ThreadsDoNotShow) {
  Numbers numbers(12);
  constexpr int64_t kOutputs = 1000;
  constexpr int64_t kInputs = 700;
  const auto x = numbers.Normal(19 * kInputs);
  const auto w = numbers.Normal(kOutputs * kInputs);
  std::vector<float> want;
  for (int threads : {1, 2, 3, 5}) {
    Device device({"threads", cpu::BestIsa(), threads});
    const auto weight = device.PutWeight({.rows = kOutputs, .columns = kInputs, .dtype = kBf16},
                                         device.Put(kF32, {kOutputs, kInputs}, w));
    const auto got = Product(device, x, *weight);
    if (want.empty()) want = got;
    ExpectSameBits(got, want, std::to_string(threads) + " threads");
  }
}

struct PartialCase {
  int64_t rows, outputs, inputs;
};

// Ranks' partial sums added in the tree: what the communicator does.
std::vector<float> TreeSum(std::vector<std::vector<float>> parts) {
  for (size_t step = 1; step < parts.size(); step *= 2) {
    for (size_t i = 0; i + step < parts.size(); i += 2 * step) {
      for (size_t j = 0; j < parts[i].size(); ++j) parts[i][j] += parts[i + step][j];
    }
  }
  return parts[0];
}

std::vector<float> Partial(Device& device, DType dtype, const PartialCase& c, int rank, int tp,
                           const std::vector<float>& x, const std::vector<float>& w) {
  const int64_t begin = SliceBegin(c.inputs, rank * kReduceSlices / tp);
  const int64_t end = SliceBegin(c.inputs, (rank + 1) * kReduceSlices / tp);
  const auto weight =
      device.PutWeight({.rows = c.outputs,
                        .columns = end - begin,
                        .dtype = dtype,
                        .column_begin = begin,
                        .column_total = c.inputs},
                       device.Put(kF32, {c.outputs, c.inputs}, w).Columns(begin, end - begin));
  const TensorView out = device.Output(kF32, {c.rows, c.outputs});
  device.ops().MatMulPartial(device.context(), out,
                             device.Put(kF32, {c.rows, c.inputs}, x).Columns(begin, end - begin),
                             *weight);
  return device.Get(out);
}

TEST(MatMulBits, RanksDoNotShow) {
  Numbers numbers(13);
  for (const PartialCase& c :
       {PartialCase{1, 16, 64}, PartialCase{3, 20, 8}, PartialCase{5, 33, 203},
        PartialCase{9, 70, 100}, PartialCase{2, 17, 13}}) {
    for (DType dtype : {kF32, kBf16}) {
      const auto x = numbers.Normal(c.rows * c.inputs);
      const auto w = Rounded(dtype, numbers.Normal(c.outputs * c.inputs));
      std::vector<std::vector<float>> slices(kReduceSlices);
      for (int s = 0; s < kReduceSlices; ++s) {
        for (int64_t i = 0; i < c.rows * c.outputs; ++i) {
          slices[s].push_back(InOrder(&x[i / c.outputs * c.inputs], &w[i % c.outputs * c.inputs],
                                      SliceBegin(c.inputs, s), SliceBegin(c.inputs, s + 1)));
        }
      }
      const std::vector<float> want = TreeSum(slices);
      for (const Backend& backend : Supported()) {
        for (int tp : {1, 2, 4, 8}) {
          Device device(backend);
          std::vector<std::vector<float>> parts;
          for (int rank = 0; rank < tp; ++rank) {
            parts.push_back(Partial(device, dtype, c, rank, tp, x, w));
          }
          ExpectSameBits(
              TreeSum(parts), want,
              backend.name + " tp " + std::to_string(tp) + " K " + std::to_string(c.inputs));
        }
      }
    }
  }
}

}  // namespace
}  // namespace tessera
