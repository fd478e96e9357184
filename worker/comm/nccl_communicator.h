// The communicator over an NCCL group that is connected. See nccl.h.

#ifndef TESSERA_WORKER_COMM_NCCL_COMMUNICATOR_H_
#define TESSERA_WORKER_COMM_NCCL_COMMUNICATOR_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/comm/comm_builder.h"
#include "worker/comm/communicator.h"
#include "worker/comm/nccl_library.h"

namespace tessera {

// Takes over `comm`.
absl::StatusOr<std::unique_ptr<Communicator>> NewNcclCommunicator(
    std::shared_ptr<const NcclLibrary> nccl, ncclComm_t comm, const CommOptions& options, Ops& ops);

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_NCCL_COMMUNICATOR_H_
