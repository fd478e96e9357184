// A rank without peers. In a group of one that is all there is; as one rank of a larger group it
// does the local part of every collective, so that a shard can be measured alone: sums lack the
// other ranks' parts, and a gather finds its own part in every place. Same threads as Communicator.

#ifndef TESSERA_WORKER_COMM_SOLO_H_
#define TESSERA_WORKER_COMM_SOLO_H_

#include <memory>

#include "kernels/ops.h"
#include "worker/comm/communicator.h"

namespace tessera {

// `ops` must outlive the communicator.
std::unique_ptr<Communicator> NewSolo(int rank, int size, Ops& ops);

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_SOLO_H_
