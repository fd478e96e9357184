// The kernel table of simd_avx512.h.

#include "kernels/cpu/make_table.h"
#include "kernels/cpu/simd_avx512.h"

namespace tessera::cpu {

const KernelTable& Avx512Kernels() {
  static constexpr KernelTable kTable = MakeTable<Avx512Simd>();
  return kTable;
}

}  // namespace tessera::cpu
