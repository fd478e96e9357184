// Host memory for tensors: zeroed, aligned to 64 bytes or a page, resident only once touched. Used
// by CpuOps::Allocate and the packed weights; safe from any thread.

#ifndef TESSERA_KERNELS_CPU_MEMORY_H_
#define TESSERA_KERNELS_CPU_MEMORY_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "kernels/tensor.h"

namespace tessera::cpu {

// RESOURCE_EXHAUSTED when the system refuses. 0 bytes give a valid pointer.
absl::StatusOr<Buffer> AllocateZeroed(size_t bytes);

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_MEMORY_H_
