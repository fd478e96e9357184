// RMS and layer norms, one row at a time.

#include "kernels/cpu/cpu_ops.h"

namespace tessera::cpu {
namespace {

// Elements worth handing to another thread.
constexpr int64_t kGrain = 64 << 10;

void CheckWeight(const TensorView& weight, const TensorView& x) {
  TESSERA_CHECK(weight.dims[0] == x.dims[1] && weight.dtype == x.dtype)
      << "x [" << x.dims[0] << ", " << x.dims[1] << "] " << DTypeName(x.dtype) << ", weight ["
      << weight.dims[0] << "] " << DTypeName(weight.dtype);
}

float Offset(const NormSpec& norm) { return norm.plus_one ? 1.0f : 0.0f; }

// Checked once for all rows.
void CheckNorm(const NormSpec& norm, const TensorView& x) {
  CheckWeight(norm.weight, x);
  if (norm.bias.empty()) return;
  CheckWeight(norm.bias, x);
  TESSERA_CHECK(!norm.plus_one && norm.sum_weight.empty()) << "a layer norm is a plain one";
}

template <typename T>
void NormRow(const RowKernels<T>& kernels, T* out, const T* x, int64_t n, const NormSpec& norm) {
  const T* weight = norm.weight.as<const T>();
  if (norm.bias.empty()) return kernels.rms_norm(out, x, weight, n, norm.eps, Offset(norm));
  kernels.layer_norm(out, x, weight, norm.bias.as<const T>(), n, norm.eps);
}

}  // namespace

void CpuOps::RmsNorm(const ExecContext& context, TensorView out, TensorView x,
                     const NormSpec& norm) {
  const int64_t n = x.dims[1];
  TESSERA_CHECK(out.rank == 2 && x.rank == 2 && out.dims == x.dims && out.dtype == x.dtype)
      << "x [" << x.dims[0] << ", " << n << "]";
  CheckNorm(norm, x);
  WithType(x.dtype, [&](auto t) {
    using T = decltype(t);
    const RowKernels<T>& kernels = kernels_.rows<T>();
    ParallelFor(context.threads, x.dims[0], 1 + kGrain / n, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        NormRow(kernels, Row<T>(out, row), Row<const T>(x, row), n, norm);
      }
    });
  });
}

void CpuOps::AddResidualNorm(const ExecContext& context, TensorView out, TensorView residual,
                             TensorView sum, TensorView bias, const NormSpec& norm) {
  const int64_t n = residual.dims[1];
  TESSERA_CHECK(out.rank == 2 && out.dims == residual.dims && sum.dims == residual.dims &&
                sum.dtype == DType::kFloat32 && out.dtype == residual.dtype)
      << "residual [" << residual.dims[0] << ", " << n << "]";
  CheckNorm(norm, residual);
  if (!bias.empty()) CheckWeight(bias, residual);
  if (!norm.sum_weight.empty()) CheckWeight(norm.sum_weight, residual);
  WithType(residual.dtype, [&](auto t) {
    using T = decltype(t);
    const RowKernels<T>& kernels = kernels_.rows<T>();
    const T* sum_weight = norm.sum_weight.as<const T>();
    ParallelFor(context.threads, residual.dims[0], 1 + kGrain / n, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        T* stream = Row<T>(residual, row);
        const float* addend = Row<const float>(sum, row);
        if (sum_weight == nullptr) {
          kernels.add_residual(stream, addend, bias.as<const T>(), n);
        } else {
          kernels.add_normed(stream, addend, bias.as<const T>(), sum_weight, n, norm.eps,
                             Offset(norm));
        }
        NormRow<T>(kernels, Row<T>(out, row), stream, n, norm);
      }
    });
  });
}

}  // namespace tessera::cpu
