// See the header.

#include "worker/comm/solo.h"

#include <atomic>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "worker/comm/tree_sum.h"

namespace tessera {
namespace {

class Solo final : public Communicator {
 public:
  Solo(int rank, int size, Ops& ops) : rank_(rank), size_(size), ops_(ops) {
    TESSERA_CHECK(IsCommSize(size) && rank >= 0 && rank < size)
        << "rank " << rank << " of " << size;
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllReduce(const ExecContext&, TensorView data) override {
    TESSERA_CHECK(data.dtype == DType::kFloat32 && data.contiguous()) << DTypeName(data.dtype);
    return Life();
  }

  absl::Status AllReduceResidualNorm(const ExecContext& ctx, TensorView out, TensorView residual,
                                     TensorView partial, TensorView bias,
                                     const NormSpec& norm) override {
    ops_.AddResidualNorm(ctx, out, residual, partial, bias, norm);
    return Life();
  }

  absl::Status AllGather(const ExecContext& ctx, TensorView out, TensorView in) override {
    TESSERA_CHECK(out.bytes() == in.bytes() * static_cast<size_t>(size_)) << out.bytes();
    std::vector<char> own(in.bytes());
    ops_.CopyToHost(ctx, own.data(), in.data, own.size());
    for (int rank = 0; rank < size_; ++rank) {
      ops_.CopyToDevice(ctx, out.as<char>() + rank * own.size(), own.data(), own.size());
    }
    return Life();
  }

  absl::Status AllGatherHost(void* out, const void* in, size_t bytes) override {
    for (int rank = 0; rank < size_ && bytes > 0; ++rank) {
      std::memcpy(static_cast<char*>(out) + rank * bytes, in, bytes);
    }
    return Life();
  }

  absl::Status Broadcast(const ExecContext&, TensorView, int) override { return Life(); }
  absl::Status Send(const ExecContext&, TensorView, int) override { return NoPeer(); }
  absl::Status Receive(const ExecContext&, TensorView, int) override { return NoPeer(); }
  absl::Status Barrier(const ExecContext&) override { return Life(); }
  void Abort() override { aborted_.store(true); }

 private:
  absl::Status Life() const {
    return aborted_.load() ? absl::AbortedError("the communicator was aborted") : absl::OkStatus();
  }
  static absl::Status NoPeer() {
    return absl::UnimplementedError("a rank that is alone has nobody to send to or receive from");
  }

  const int rank_;
  const int size_;
  Ops& ops_;
  std::atomic<bool> aborted_ = false;
};

}  // namespace

std::unique_ptr<Communicator> NewSolo(int rank, int size, Ops& ops) {
  return std::make_unique<Solo>(rank, size, ops);
}

}  // namespace tessera
