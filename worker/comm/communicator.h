// The ranks of one tensor-parallel group talking to each other. One object per rank; calls are made
// from that rank's engine thread only, except Abort, which any thread may call.
//
// Sums are deterministic: every rank computes the same fixed binary tree over ranks,
// ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7)), in float32, never a library's own reduction
// order. With Ops::MatMulPartial it continues the tree over the fixed slices of K.
//
// Every call waits at most the deadline given at construction; a lost or late peer is UNAVAILABLE
// or DEADLINE_EXCEEDED naming the rank, and the object is then of no more use (the group gets a new
// epoch).

#ifndef TESSERA_WORKER_COMM_COMMUNICATOR_H_
#define TESSERA_WORKER_COMM_COMMUNICATOR_H_

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace tessera {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;  // 1, 2, 4 or 8

  // data (float32, contiguous, any size including 0) becomes the tree sum over ranks, in place.
  virtual absl::Status AllReduce(const ExecContext&, TensorView data) = 0;
  // residual += tree sum of `partial` + bias or its norm, out = RmsNorm(residual); see
  // Ops::AddResidualNorm.
  // partial [T, C] float32 is overwritten.
  virtual absl::Status AllReduceResidualNorm(const ExecContext&, TensorView out,
                                             TensorView residual, TensorView partial,
                                             TensorView bias, const NormSpec& norm) = 0;
  // out [size * n bytes]: every rank's `in` (n bytes, host or device as the backend has it), in
  // rank order. Any dtype; bytes are copied.
  virtual absl::Status AllGather(const ExecContext&, TensorView out, TensorView in) = 0;
  // The same for small host arrays, whatever the device (candidates of the sampler).
  virtual absl::Status AllGatherHost(void* out, const void* in, size_t bytes) = 0;
  virtual absl::Status Broadcast(const ExecContext&, TensorView data, int root) = 0;
  virtual absl::Status Send(const ExecContext&, TensorView data, int peer) = 0;
  virtual absl::Status Receive(const ExecContext&, TensorView data, int peer) = 0;
  virtual absl::Status Barrier(const ExecContext&) = 0;
  // Makes every present and later call on this rank, and every peer that waits for it, fail soon.
  virtual void Abort() = 0;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_COMMUNICATOR_H_
