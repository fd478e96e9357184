// The communicator over pairs that are already connected. See gloo.h.

#ifndef TESSERA_WORKER_COMM_GLOO_COMMUNICATOR_H_
#define TESSERA_WORKER_COMM_GLOO_COMMUNICATOR_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/ops.h"
#include "worker/comm/communicator.h"

namespace gloo::transport {
class Context;
}  // namespace gloo::transport

namespace tessera {

absl::StatusOr<std::unique_ptr<Communicator>> NewGlooCommunicator(
    int rank, int size, Ops& ops, std::shared_ptr<gloo::transport::Context> context,
    absl::Duration call_deadline);

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_GLOO_COMMUNICATOR_H_
