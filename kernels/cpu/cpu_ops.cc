// Makes the CPU backend and names its numerics.

#include "kernels/cpu/cpu_ops.h"

#include <gnu/libc-version.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tessera {

absl::StatusOr<std::unique_ptr<Ops>> NewCpuOps() {
  if (!cpu::IsaSupported(cpu::Isa::kAvx2)) {
    return absl::FailedPreconditionError(
        "this CPU has no AVX2 with FMA, which the CPU backend needs (x86-64-v3)");
  }
  return std::make_unique<cpu::CpuOps>(cpu::BestIsa());
}

std::string CpuNumericsName() {
  return absl::StrCat("cpu-fp32fma-v1-glibc", gnu_get_libc_version());
}

}  // namespace tessera
