// Stands in for NCCL in a build without CUDA.

#include "worker/comm/nccl.h"

namespace tessera {

absl::StatusOr<std::shared_ptr<NcclSetup>> NcclSetup::Create(const CommOptions&, Ops&) {
  return absl::UnimplementedError(
      "this build has no NCCL transport; build with `cmake --preset cuda`, or use shared memory or "
      "gloo");
}

absl::StatusOr<std::unique_ptr<Communicator>> NcclSetup::Connect(const std::vector<std::string>&) {
  return absl::UnimplementedError("this build has no NCCL transport");
}

}  // namespace tessera
