// The communicator over a segment that is mapped already. See shared_memory.h.

#ifndef TESSERA_WORKER_COMM_SHARED_MEMORY_COMMUNICATOR_H_
#define TESSERA_WORKER_COMM_SHARED_MEMORY_COMMUNICATOR_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "worker/comm/comm_builder.h"
#include "worker/comm/communicator.h"
#include "worker/comm/peer_process.h"
#include "worker/comm/shared_segment.h"

namespace tessera {

// Waits until every rank has attached, then removes the segment's name. `peers` in rank order.
absl::StatusOr<std::unique_ptr<Communicator>> JoinSharedMemory(
    const CommOptions& options, Ops& ops, std::unique_ptr<SharedSegment> segment,
    const std::vector<ProcessIdentity>& peers);

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_SHARED_MEMORY_COMMUNICATOR_H_
