// Which kernel tables this machine can run.

#include "base/check.h"
#include "kernels/cpu/kernel_table.h"

namespace tessera::cpu {

bool IsaSupported(Isa isa) {
  switch (isa) {
    case Isa::kPlain:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl");
  }
  return false;
}

Isa BestIsa() {
  if (IsaSupported(Isa::kAvx512)) return Isa::kAvx512;
  return IsaSupported(Isa::kAvx2) ? Isa::kAvx2 : Isa::kPlain;
}

const KernelTable& KernelsFor(Isa isa) {
  TESSERA_CHECK(IsaSupported(isa)) << "instruction set " << static_cast<int>(isa);
  switch (isa) {
    case Isa::kPlain:
      break;
    case Isa::kAvx2:
      return Avx2Kernels();
    case Isa::kAvx512:
      return Avx512Kernels();
  }
  return PlainKernels();
}

}  // namespace tessera::cpu
