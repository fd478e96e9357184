// What the transports over host memory share: argument checks, the views reduced to bytes, and the
// unfused AllReduceResidualNorm. A transport implements the protected methods only. Same threads as
// Communicator: the rank's engine thread, except Abort.

#ifndef TESSERA_WORKER_COMM_HOST_COMMUNICATOR_H_
#define TESSERA_WORKER_COMM_HOST_COMMUNICATOR_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/ops.h"
#include "worker/comm/communicator.h"

namespace tessera {

class HostCommunicator : public Communicator {
 public:
  int rank() const final { return rank_; }
  int size() const final { return size_; }

  absl::Status AllReduce(const ExecContext&, TensorView data) final;
  absl::Status AllReduceResidualNorm(const ExecContext&, TensorView out, TensorView residual,
                                     TensorView partial, TensorView bias,
                                     const NormSpec& norm) final;
  absl::Status AllGather(const ExecContext&, TensorView out, TensorView in) final;
  absl::Status AllGatherHost(void* out, const void* in, size_t bytes) final;
  absl::Status Broadcast(const ExecContext&, TensorView data, int root) final;
  absl::Status Send(const ExecContext&, TensorView data, int peer) final;
  absl::Status Receive(const ExecContext&, TensorView data, int peer) final;
  absl::Status Barrier(const ExecContext&) final;

 protected:
  HostCommunicator(int rank, int size, Ops& ops);

  virtual absl::Status DoAllReduce(float* data, size_t n) = 0;
  virtual absl::Status DoAllGather(char* out, const char* in, size_t bytes) = 0;
  virtual absl::Status DoBroadcast(char* data, size_t bytes, int root) = 0;
  virtual absl::Status DoSend(const char* data, size_t bytes, int peer) = 0;
  virtual absl::Status DoReceive(char* data, size_t bytes, int peer) = 0;
  virtual absl::Status DoBarrier() = 0;

 private:
  void CheckPeer(int peer) const;

  const int rank_;
  const int size_;
  Ops& ops_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_HOST_COMMUNICATOR_H_
