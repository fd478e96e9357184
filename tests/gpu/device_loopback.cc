// Host memory travels by the product's own loopback; device memory is summed by the product's own
// kernels. Ranks synchronize with their streams before they meet, so no event is needed: slow, and
// right.

#include "tests/gpu/device_loopback.h"

#include <array>

#include "base/check.h"
#include "base/status.h"
#include "kernels/peer_sum.h"
#include "worker/comm/loopback.h"

namespace tessera::gpu {
namespace {

class DeviceLoopback final : public Communicator {
 public:
  DeviceLoopback(Ops& ops, std::unique_ptr<Communicator> host)
      : ops_(ops), host_(std::move(host)) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  absl::Status AllReduce(const ExecContext& context, TensorView data) override {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<const float*> parts, Meet(context, data));
    TESSERA_RETURN_IF_ERROR(Reserve(data.bytes()));
    TESSERA_RETURN_IF_ERROR(
        SumPeers(context, static_cast<float*>(sum_.data()), parts, data.size()));
    // Nobody overwrites its part before all have read it.
    TESSERA_RETURN_IF_ERROR(Barrier(context));
    return SumPeers(context, data.as<float>(), {static_cast<const float*>(sum_.data())},
                    data.size());
  }
  absl::Status AllReduceResidualNorm(const ExecContext& context, TensorView out,
                                     TensorView residual, TensorView partial, TensorView bias,
                                     const NormSpec& norm) override {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<const float*> parts, Meet(context, partial));
    TESSERA_RETURN_IF_ERROR(SumPeersResidualNorm(context, out, residual, parts, bias, norm));
    return Barrier(context);
  }
  absl::Status AllGather(const ExecContext&, TensorView, TensorView) override {
    return absl::UnimplementedError("the tests of models gather on the host");
  }
  absl::Status AllGatherHost(void* out, const void* in, size_t bytes) override {
    return host_->AllGatherHost(out, in, bytes);
  }
  absl::Status Broadcast(const ExecContext&, TensorView, int) override {
    return absl::UnimplementedError("no model broadcasts");
  }
  absl::Status Send(const ExecContext&, TensorView, int) override {
    return absl::UnimplementedError("no model sends");
  }
  absl::Status Receive(const ExecContext&, TensorView, int) override {
    return absl::UnimplementedError("no model receives");
  }
  absl::Status Barrier(const ExecContext& context) override {
    TESSERA_RETURN_IF_ERROR(ops_.Synchronize(context));
    return host_->Barrier(context);
  }
  void Abort() override { host_->Abort(); }

 private:
  // Every rank's pointer, once what it points to is computed.
  absl::StatusOr<std::vector<const float*>> Meet(const ExecContext& context, TensorView data) {
    TESSERA_CHECK(data.dtype == DType::kFloat32 && data.contiguous());
    TESSERA_RETURN_IF_ERROR(ops_.Synchronize(context));
    const float* mine = data.as<const float>();
    std::vector<const float*> parts(size());
    TESSERA_RETURN_IF_ERROR(host_->AllGatherHost(parts.data(), &mine, sizeof(mine)));
    return parts;
  }
  absl::Status Reserve(size_t bytes) {
    if (sum_.bytes() >= bytes) return absl::OkStatus();
    TESSERA_ASSIGN_OR_RETURN(sum_, ops_.Allocate(bytes));
    return absl::OkStatus();
  }

  Ops& ops_;
  const std::unique_ptr<Communicator> host_;
  Buffer sum_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> NewDeviceLoopback(const std::vector<Ops*>& ops,
                                                             absl::Duration deadline) {
  std::vector<std::unique_ptr<Communicator>> ranks;
  std::vector<std::unique_ptr<Communicator>> hosts = NewLoopback(ops, deadline);
  for (size_t r = 0; r < ops.size(); ++r) {
    ranks.push_back(std::make_unique<DeviceLoopback>(*ops[r], std::move(hosts[r])));
  }
  return ranks;
}

}  // namespace tessera::gpu
