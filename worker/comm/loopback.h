// Ranks that are threads of one process: the plain transport, oracle of the others in tests, and
// (with one rank) the communicator of a group of one. Peers read each other's memory between two
// barriers; one mutex and one condition variable for the whole group.

#ifndef TESSERA_WORKER_COMM_LOOPBACK_H_
#define TESSERA_WORKER_COMM_LOOPBACK_H_

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "kernels/ops.h"
#include "worker/comm/communicator.h"

namespace tessera {

// The communicators of ranks 0 .. ops.size() - 1 (1, 2, 4 or 8 of them), each with its rank's Ops,
// which must outlive it.
std::vector<std::unique_ptr<Communicator>> NewLoopback(const std::vector<Ops*>& ops,
                                                       absl::Duration call_deadline);

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_LOOPBACK_H_
