// Stands in for the CUDA backend in a build without it.

#include "absl/status/status.h"
#include "kernels/ops.h"

namespace tessera {

absl::StatusOr<std::unique_ptr<Ops>> NewCudaOps(int /*device*/) {
  return absl::UnimplementedError(
      "this build has no CUDA backend; run with --device cpu, or build with `cmake --preset cuda`");
}

}  // namespace tessera
