// The ranks of a group as threads of one process on one GPU, without NCCL: every rank reads the
// others' device memory behind events. What the CUDA ops compute is tested through it at tp 2, 4
// and 8; how ranks talk is not. One object per rank.

#ifndef TESSERA_TESTS_GPU_DEVICE_LOOPBACK_H_
#define TESSERA_TESTS_GPU_DEVICE_LOOPBACK_H_

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "worker/comm/communicator.h"

namespace tessera::gpu {

std::vector<std::unique_ptr<Communicator>> NewDeviceLoopback(const std::vector<Ops*>& ops,
                                                             absl::Duration deadline);

}  // namespace tessera::gpu

#endif  // TESSERA_TESTS_GPU_DEVICE_LOOPBACK_H_
