// The gated activation of the MLP and the cap on logits, one row at a time.

#include <algorithm>

#include "kernels/cpu/cpu_ops.h"

namespace tessera::cpu {
namespace {

// Elements worth handing to another thread; an exponential each.
constexpr int64_t kGrain = 16 << 10;

}  // namespace

void CpuOps::GatedActivation(const ExecContext& context, TensorView out, TensorView gate_up,
                             Activation act) {
  const int64_t n = out.dims[1];
  TESSERA_CHECK(out.rank == 2 && gate_up.rank == 2 && out.dims[0] == gate_up.dims[0] &&
                gate_up.dims[1] == 2 * n && out.dtype == gate_up.dtype)
      << "out [" << out.dims[0] << ", " << n << "], gate_up [" << gate_up.dims[0] << ", "
      << gate_up.dims[1] << "]";
  WithType(out.dtype, [&](auto t) {
    using T = decltype(t);
    const RowKernels<T>& kernels = kernels_.rows<T>();
    ParallelFor(context.threads, out.dims[0], 1 + kGrain / n, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T* gate = Row<const T>(gate_up, row);
        kernels.gated(Row<T>(out, row), gate, gate + n, n, act);
      }
    });
  });
}

void CpuOps::SoftCap(const ExecContext& context, TensorView x, float cap) {
  TESSERA_CHECK(x.rank == 2 && x.dtype == DType::kFloat32 && cap > 0) << "cap " << cap;
  ParallelFor(context.threads, x.dims[0], 1 + kGrain / std::max<int64_t>(x.dims[1], 1),
              [&](int64_t begin, int64_t end) {
                for (int64_t row = begin; row < end; ++row) {
                  kernels_.soft_cap(Row<float>(x, row), x.dims[1], cap);
                }
              });
}

}  // namespace tessera::cpu
