// The kernel table of simd_plain.h.

#include "kernels/cpu/make_table.h"
#include "kernels/cpu/simd_plain.h"

namespace tessera::cpu {

const KernelTable& PlainKernels() {
  static constexpr KernelTable kTable = MakeTable<PlainSimd>();
  return kTable;
}

}  // namespace tessera::cpu
