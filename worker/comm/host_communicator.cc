// Checks of the arguments and the reduction of views to bytes, once for all host transports.

#include "worker/comm/host_communicator.h"

#include "base/check.h"
#include "base/status.h"
#include "worker/comm/tree_sum.h"

namespace tessera {

HostCommunicator::HostCommunicator(int rank, int size, Ops& ops)
    : rank_(rank), size_(size), ops_(ops) {
  TESSERA_CHECK(IsCommSize(size) && rank >= 0 && rank < size) << "rank " << rank << " of " << size;
}

void HostCommunicator::CheckPeer(int peer) const {
  TESSERA_CHECK(peer >= 0 && peer < size_ && peer != rank_)
      << "rank " << rank_ << " names peer " << peer << " in a group of " << size_;
}

absl::Status HostCommunicator::AllReduce(const ExecContext&, TensorView data) {
  TESSERA_CHECK(data.dtype == DType::kFloat32) << "all-reduce of " << DTypeName(data.dtype);
  TESSERA_CHECK(data.contiguous()) << "all-reduce of a strided view";
  return DoAllReduce(data.as<float>(), static_cast<size_t>(data.size()));
}

absl::Status HostCommunicator::AllReduceResidualNorm(const ExecContext& ctx, TensorView out,
                                                     TensorView residual, TensorView partial,
                                                     TensorView bias, const NormSpec& norm) {
  TESSERA_RETURN_IF_ERROR(AllReduce(ctx, partial));
  ops_.AddResidualNorm(ctx, out, residual, partial, bias, norm);
  return absl::OkStatus();
}

absl::Status HostCommunicator::AllGather(const ExecContext&, TensorView out, TensorView in) {
  TESSERA_CHECK(in.contiguous() && out.contiguous()) << "all-gather of strided views";
  TESSERA_CHECK(out.bytes() == in.bytes() * static_cast<size_t>(size_))
      << "all-gather of " << in.bytes() << " bytes from " << size_ << " ranks into " << out.bytes();
  return DoAllGather(out.as<char>(), in.as<char>(), in.bytes());
}

absl::Status HostCommunicator::AllGatherHost(void* out, const void* in, size_t bytes) {
  return DoAllGather(static_cast<char*>(out), static_cast<const char*>(in), bytes);
}

absl::Status HostCommunicator::Broadcast(const ExecContext&, TensorView data, int root) {
  TESSERA_CHECK(data.contiguous()) << "broadcast of a strided view";
  TESSERA_CHECK(root >= 0 && root < size_) << "root " << root << " in a group of " << size_;
  return DoBroadcast(data.as<char>(), data.bytes(), root);
}

absl::Status HostCommunicator::Send(const ExecContext&, TensorView data, int peer) {
  TESSERA_CHECK(data.contiguous()) << "send of a strided view";
  CheckPeer(peer);
  return DoSend(data.as<char>(), data.bytes(), peer);
}

absl::Status HostCommunicator::Receive(const ExecContext&, TensorView data, int peer) {
  TESSERA_CHECK(data.contiguous()) << "receive into a strided view";
  CheckPeer(peer);
  return DoReceive(data.as<char>(), data.bytes(), peer);
}

absl::Status HostCommunicator::Barrier(const ExecContext&) { return DoBarrier(); }

}  // namespace tessera
