// RMS norms, one row at a time.

#include "kernels/cpu/cpu_ops.h"

namespace tessera::cpu {
namespace {

// Elements worth handing to another thread.
constexpr int64_t kGrain = 64 << 10;

}  // namespace

void CpuOps::RmsNorm(const ExecContext& context, TensorView out, TensorView x, TensorView weight,
                     float eps) {
  const int64_t n = x.dims[1];
  TESSERA_CHECK(out.rank == 2 && x.rank == 2 && out.dims == x.dims && weight.dims[0] == n &&
                out.dtype == x.dtype && weight.dtype == x.dtype)
      << "x [" << x.dims[0] << ", " << n << "], weight [" << weight.dims[0] << "]";
  WithType(x.dtype, [&](auto t) {
    using T = decltype(t);
    const RowKernels<T>& kernels = kernels_.rows<T>();
    ParallelFor(context.threads, x.dims[0], 1 + kGrain / n, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        kernels.rms_norm(Row<T>(out, row), Row<const T>(x, row), weight.as<const T>(), n, eps);
      }
    });
  });
}

void CpuOps::AddResidualNorm(const ExecContext& context, TensorView out, TensorView residual,
                             TensorView sum, TensorView bias, TensorView weight, float eps) {
  const int64_t n = residual.dims[1];
  TESSERA_CHECK(out.rank == 2 && out.dims == residual.dims && sum.dims == residual.dims &&
                weight.dims[0] == n && (bias.empty() || bias.dims[0] == n))
      << "residual [" << residual.dims[0] << ", " << n << "], weight [" << weight.dims[0] << "]";
  TESSERA_CHECK(sum.dtype == DType::kFloat32 && out.dtype == residual.dtype &&
                weight.dtype == residual.dtype && (bias.empty() || bias.dtype == residual.dtype))
      << DTypeName(residual.dtype);
  WithType(residual.dtype, [&](auto t) {
    using T = decltype(t);
    const RowKernels<T>& kernels = kernels_.rows<T>();
    ParallelFor(context.threads, residual.dims[0], 1 + kGrain / n, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        T* stream = Row<T>(residual, row);
        kernels.add_residual(stream, Row<const float>(sum, row), bias.as<const T>(), n);
        kernels.rms_norm(Row<T>(out, row), stream, weight.as<const T>(), n, eps);
      }
    });
  });
}

}  // namespace tessera::cpu
