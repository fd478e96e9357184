// The operations. Parts are gathered into a buffer of this rank and summed by our own kernels:
// small messages whole, large ones by slices, each rank summing one and handing it round.

#include "worker/comm/nccl_communicator.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "kernels/peer_sum.h"
#include "worker/comm/nccl_watch.h"
#include "worker/comm/tree_sum.h"

namespace tessera {
namespace {

// Of one rank's part, gathered at once; longer messages go in pieces.
constexpr size_t kPartBytes = size_t{8} << 20;
// From here a message is summed by slices: every rank then receives it twice instead of once per
// rank, in two exchanges instead of one.
constexpr size_t kSlicedFrom = size_t{256} << 10;
constexpr size_t kSliceAlignment = 32;  // floats

// As Ops' CUDA backend has it: a context without a stream means the calling thread's.
cudaStream_t StreamOf(const ExecContext& context) {
  return context.stream != nullptr ? static_cast<cudaStream_t>(context.stream)
                                   : cudaStreamPerThread;
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<const NcclLibrary> nccl, ncclComm_t comm, cudaEvent_t last,
                   int device, const CommOptions& options, Ops& ops, Buffer parts)
      : nccl_(nccl),
        rank_(options.rank),
        size_(options.size),
        ops_(ops),
        parts_(std::move(parts)),
        watch_(std::move(nccl), comm, last, device, options.call_deadline) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllReduce(const ExecContext& context, TensorView data) override;
  absl::Status AllReduceResidualNorm(const ExecContext& context, TensorView out,
                                     TensorView residual, TensorView partial, TensorView bias,
                                     const NormSpec& norm) override;
  absl::Status AllGather(const ExecContext& context, TensorView out, TensorView in) override;
  absl::Status AllGatherHost(void* out, const void* in, size_t bytes) override;
  absl::Status Broadcast(const ExecContext& context, TensorView data, int root) override;
  absl::Status Send(const ExecContext& context, TensorView data, int peer) override;
  absl::Status Receive(const ExecContext& context, TensorView data, int peer) override;
  absl::Status Barrier(const ExecContext& context) override;
  void Abort() override {
    watch_.Abort(absl::UnavailableError(absl::StrCat("rank ", rank_, " aborted the group")));
  }

 private:
  absl::Status Gather(cudaStream_t stream, void* out, const void* in, size_t bytes);
  absl::Status ReduceWhole(const ExecContext& context, float* data, size_t n);
  absl::Status ReduceSliced(const ExecContext& context, float* data, size_t n);
  std::vector<const float*> Parts(size_t stride) const;
  void CheckPeer(int peer) const {
    TESSERA_CHECK(peer >= 0 && peer < size_ && peer != rank_)
        << "rank " << rank_ << " names peer " << peer << " in a group of " << size_;
  }

  const std::shared_ptr<const NcclLibrary> nccl_;
  const int rank_;
  const int size_;
  Ops& ops_;
  const Buffer parts_;  // [size][kPartBytes]
  NcclWatch watch_;
};

// The parts of all ranks, `stride` floats apart.
std::vector<const float*> NcclCommunicator::Parts(size_t stride) const {
  std::vector<const float*> parts;
  for (int r = 0; r < size_; ++r) {
    parts.push_back(static_cast<const float*>(parts_.data()) + r * stride);
  }
  return parts;
}

absl::Status NcclCommunicator::Gather(cudaStream_t stream, void* out, const void* in,
                                      size_t bytes) {
  return watch_.Queue(stream, "gather from all ranks", [&](ncclComm_t comm) {
    return nccl_->all_gather(in, out, bytes, ncclInt8, comm, stream);
  });
}

absl::Status NcclCommunicator::ReduceWhole(const ExecContext& context, float* data, size_t n) {
  TESSERA_RETURN_IF_ERROR(Gather(StreamOf(context), parts_.data(), data, n * sizeof(float)));
  return SumPeers(context, data, Parts(n), static_cast<int64_t>(n));
}

absl::Status NcclCommunicator::ReduceSliced(const ExecContext& context, float* data, size_t n) {
  const cudaStream_t stream = StreamOf(context);
  const size_t slice = (n / size_ + kSliceAlignment) / kSliceAlignment * kSliceAlignment;
  const auto begin = [&](int r) { return std::min(n, r * slice); };
  const auto count = [&](int r) { return std::min(n, begin(r) + slice) - begin(r); };
  float* parts = static_cast<float*>(parts_.data());
  TESSERA_RETURN_IF_ERROR(watch_.Queue(stream, "exchange slices", [&](ncclComm_t comm) {
    ncclResult_t result = nccl_->group_start();
    for (int r = 0; r < size_ && result == ncclSuccess; ++r) {
      result = nccl_->send(data + begin(r), count(r), ncclFloat32, r, comm, stream);
      if (result == ncclSuccess) {
        result = nccl_->receive(parts + r * slice, count(rank_), ncclFloat32, r, comm, stream);
      }
    }
    const ncclResult_t ended = nccl_->group_end();
    return result == ncclSuccess ? ended : result;
  }));
  TESSERA_RETURN_IF_ERROR(
      SumPeers(context, parts + rank_ * slice, Parts(slice), static_cast<int64_t>(count(rank_))));
  // Everybody gets every slice at its place in the gathered buffer, which is as long as the
  // message.
  TESSERA_RETURN_IF_ERROR(Gather(stream, parts, parts + rank_ * slice, slice * sizeof(float)));
  const cudaError_t copied =
      cudaMemcpyAsync(data, parts, n * sizeof(float), cudaMemcpyDeviceToDevice, stream);
  if (copied == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("CUDA cannot copy a sum: ", cudaGetErrorString(copied)));
}

absl::Status NcclCommunicator::AllReduce(const ExecContext& context, TensorView data) {
  TESSERA_CHECK(data.dtype == DType::kFloat32 && data.contiguous())
      << "all-reduce of " << DTypeName(data.dtype);
  if (size_ == 1) return watch_.Alive();
  const size_t n = static_cast<size_t>(data.size());
  const size_t piece = kPartBytes / sizeof(float);
  for (size_t at = 0; at < n; at += piece) {
    const size_t count = std::min(piece, n - at);
    // A slice of a piece, rounded up, still fits into the parts.
    const bool sliced = count * sizeof(float) >= kSlicedFrom;
    float* from = data.as<float>() + at;
    TESSERA_RETURN_IF_ERROR(sliced ? ReduceSliced(context, from, count)
                                   : ReduceWhole(context, from, count));
  }
  return absl::OkStatus();
}

absl::Status NcclCommunicator::AllReduceResidualNorm(const ExecContext& context, TensorView out,
                                                     TensorView residual, TensorView partial,
                                                     TensorView bias, const NormSpec& norm) {
  const size_t bytes = partial.bytes();
  if (size_ > 1 && bytes < kSlicedFrom && partial.dims[0] > 0) {
    TESSERA_CHECK(partial.dtype == DType::kFloat32 && partial.contiguous() &&
                  partial.dims == residual.dims)
        << "partial sums of " << DTypeName(partial.dtype);
    TESSERA_RETURN_IF_ERROR(Gather(StreamOf(context), parts_.data(), partial.data, bytes));
    return SumPeersResidualNorm(context, out, residual, Parts(bytes / sizeof(float)), bias, norm);
  }
  TESSERA_RETURN_IF_ERROR(AllReduce(context, partial));
  ops_.AddResidualNorm(context, out, residual, partial, bias, norm);
  return absl::OkStatus();
}

absl::Status NcclCommunicator::AllGather(const ExecContext& context, TensorView out,
                                         TensorView in) {
  TESSERA_CHECK(in.contiguous() && out.contiguous() &&
                out.bytes() == in.bytes() * static_cast<size_t>(size_))
      << "all-gather of " << in.bytes() << " bytes from " << size_ << " ranks into " << out.bytes();
  return Gather(StreamOf(context), out.data, in.data, in.bytes());
}

absl::Status NcclCommunicator::AllGatherHost(void* out, const void* in, size_t bytes) {
  const ExecContext context;
  const size_t piece = kPartBytes / 2;  // what is sent lies behind what is received
  for (size_t at = 0; at < bytes; at += piece) {
    const size_t n = std::min(piece, bytes - at);
    char* received = static_cast<char*>(parts_.data());
    char* sent = received + size_ * n;
    ops_.CopyToDevice(context, sent, static_cast<const char*>(in) + at, n);
    TESSERA_RETURN_IF_ERROR(Gather(StreamOf(context), received, sent, n));
    TESSERA_RETURN_IF_ERROR(watch_.Wait(StreamOf(context), "gather small results"));
    for (int r = 0; r < size_; ++r) {
      ops_.CopyToHost(context, static_cast<char*>(out) + r * bytes + at, received + r * n, n);
    }
  }
  return watch_.Alive();
}

absl::Status NcclCommunicator::Broadcast(const ExecContext& context, TensorView data, int root) {
  TESSERA_CHECK(data.contiguous() && root >= 0 && root < size_) << "root " << root;
  const cudaStream_t stream = StreamOf(context);
  return watch_.Queue(stream, "broadcast", [&](ncclComm_t comm) {
    return nccl_->broadcast(data.data, data.data, data.bytes(), ncclInt8, root, comm, stream);
  });
}

absl::Status NcclCommunicator::Send(const ExecContext& context, TensorView data, int peer) {
  TESSERA_CHECK(data.contiguous()) << "send of a strided view";
  CheckPeer(peer);
  const cudaStream_t stream = StreamOf(context);
  return watch_.Queue(stream, "send", [&](ncclComm_t comm) {
    return nccl_->send(data.data, data.bytes(), ncclInt8, peer, comm, stream);
  });
}

absl::Status NcclCommunicator::Receive(const ExecContext& context, TensorView data, int peer) {
  TESSERA_CHECK(data.contiguous()) << "receive into a strided view";
  CheckPeer(peer);
  const cudaStream_t stream = StreamOf(context);
  return watch_.Queue(stream, "receive", [&](ncclComm_t comm) {
    return nccl_->receive(data.data, data.bytes(), ncclInt8, peer, comm, stream);
  });
}

absl::Status NcclCommunicator::Barrier(const ExecContext& context) {
  const cudaStream_t stream = StreamOf(context);
  char* received = static_cast<char*>(parts_.data());
  TESSERA_RETURN_IF_ERROR(Gather(stream, received, received + rank_ * 64, 64));
  return watch_.Wait(stream, "a barrier");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> NewNcclCommunicator(
    std::shared_ptr<const NcclLibrary> nccl, ncclComm_t comm, const CommOptions& options,
    Ops& ops) {
  // Room for a slice's rounding up, and for what AllGatherHost sends.
  absl::StatusOr<Buffer> parts = ops.Allocate(options.size * kPartBytes + kPartBytes);
  int device = 0;
  cudaEvent_t last = nullptr;
  absl::Status status = parts.status();
  if (status.ok() && (cudaGetDevice(&device) != cudaSuccess ||
                      cudaEventCreateWithFlags(&last, cudaEventDisableTiming) != cudaSuccess)) {
    status = absl::InternalError(
        absl::StrCat("CUDA cannot create an event: ", cudaGetErrorString(cudaGetLastError())));
  }
  if (!status.ok()) {
    nccl->abort(comm);
    return status;
  }
  return std::make_unique<NcclCommunicator>(std::move(nccl), comm, last, device, options, ops,
                                            *std::move(parts));
}

}  // namespace tessera
