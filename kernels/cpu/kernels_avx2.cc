// The kernel table of simd_avx2.h.

#include "kernels/cpu/make_table.h"
#include "kernels/cpu/simd_avx2.h"

namespace tessera::cpu {

const KernelTable& Avx2Kernels() {
  static constexpr KernelTable kTable = MakeTable<Avx2Simd>();
  return kTable;
}

}  // namespace tessera::cpu
