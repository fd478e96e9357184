// A communicator that lets only AllGatherHost through and counts it.

#ifndef TESSERA_TESTS_WORKER_SAMPLER_COUNTING_COMMUNICATOR_H_
#define TESSERA_TESTS_WORKER_SAMPLER_COUNTING_COMMUNICATOR_H_

#include "absl/status/status.h"
#include "worker/comm/communicator.h"

namespace tessera {

class CountingCommunicator final : public Communicator {
 public:
  explicit CountingCommunicator(Communicator& inner) : inner_(inner) {}
  int gathers() const { return gathers_; }

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  absl::Status AllGatherHost(void* out, const void* in, size_t bytes) override {
    ++gathers_;
    return inner_.AllGatherHost(out, in, bytes);
  }
  absl::Status AllReduce(const ExecContext&, TensorView) override { return Unexpected(); }
  absl::Status AllReduceResidualNorm(const ExecContext&, TensorView, TensorView, TensorView,
                                     TensorView, const NormSpec&) override {
    return Unexpected();
  }
  absl::Status AllGather(const ExecContext&, TensorView, TensorView) override {
    return Unexpected();
  }
  absl::Status Broadcast(const ExecContext&, TensorView, int) override { return Unexpected(); }
  absl::Status Send(const ExecContext&, TensorView, int) override { return Unexpected(); }
  absl::Status Receive(const ExecContext&, TensorView, int) override { return Unexpected(); }
  absl::Status Barrier(const ExecContext&) override { return Unexpected(); }
  void Abort() override { inner_.Abort(); }

 private:
  static absl::Status Unexpected() { return absl::InternalError("the sampler only gathers"); }
  Communicator& inner_;
  int gathers_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_SAMPLER_COUNTING_COMMUNICATOR_H_
