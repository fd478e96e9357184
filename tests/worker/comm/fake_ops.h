// Ops with the one method that communicators call. Everything else is a broken test, unless a test
// of something else overrides it.

#ifndef TESSERA_TESTS_WORKER_COMM_FAKE_OPS_H_
#define TESSERA_TESTS_WORKER_COMM_FAKE_OPS_H_

#include <cstdlib>
#include <memory>
#include <vector>

#include "base/check.h"
#include "kernels/ops.h"

namespace tessera {

class FakeOps : public Ops {
 public:
  // residual += sum + bias; out = residual * weight * eps, so that every argument shows in the
  // result.
  void AddResidualNorm(const ExecContext&, TensorView out, TensorView residual, TensorView sum,
                       TensorView bias, const NormSpec& norm) override {
    const int64_t columns = sum.dims[1];
    for (int64_t i = 0; i < sum.size(); ++i) {
      residual.as<float>()[i] += sum.as<float>()[i] + bias.as<float>()[i % columns];
      out.as<float>()[i] =
          residual.as<float>()[i] * norm.weight.as<float>()[i % columns] * norm.eps;
    }
  }

  absl::StatusOr<Buffer> Allocate(size_t) override { Unused(); }
  void CopyToDevice(const ExecContext&, void*, const void*, size_t) override { Unused(); }
  void CopyToHost(const ExecContext&, void*, const void*, size_t) override { Unused(); }
  absl::Status Synchronize(const ExecContext&) override { Unused(); }
  size_t WorkspaceBytes(int64_t, int64_t, int64_t) override { return 0; }
  size_t ExpertsWorkspaceBytes(int64_t, const ExpertSizes&) override { return 0; }
  bool CanRecord() const override { return false; }
  absl::Status BeginRecording(const ExecContext&) override { Unused(); }
  absl::StatusOr<Recording> EndRecording(const ExecContext&) override { Unused(); }
  absl::Status Replay(const ExecContext&, const Recording&) override { Unused(); }
  absl::StatusOr<std::unique_ptr<Weight>> NewWeight(const WeightShape&) override { Unused(); }
  void PackRows(Weight&, int64_t, TensorView) override { Unused(); }
  void FillRows(Weight&, int64_t, int64_t, const NoiseSpec&) override { Unused(); }
  void Fill(const ExecContext&, TensorView, const NoiseSpec&) override { Unused(); }
  void Embedding(const ExecContext&, TensorView, TensorView, TensorView, int64_t, float) override {
    Unused();
  }
  void RmsNorm(const ExecContext&, TensorView, TensorView, const NormSpec&) override { Unused(); }
  void MatMul(const ExecContext&, TensorView, TensorView, const Weight&, TensorView) override {
    Unused();
  }
  void MatMulPartial(const ExecContext&, TensorView, TensorView, const Weight&) override {
    Unused();
  }
  void MatMulHeads(const ExecContext&, TensorView, TensorView, const Weight&, int64_t) override {
    Unused();
  }
  void RouteExperts(const ExecContext&, const Routing&, TensorView, TensorView,
                    const RoutingSpec&) override {
    Unused();
  }
  void ExpertsPartial(const ExecContext&, TensorView, TensorView, const Routing&,
                      const ExpertShare&, const SharedExpert&, TensorView) override {
    Unused();
  }
  void RopeAndStoreLatent(const ExecContext&, TensorView, TensorView, TensorView, const KvLayer&,
                          const StepView&, const NormSpec&, const RopeSpec&,
                          const AttentionSpec&) override {
    Unused();
  }
  void RopeAndStoreKv(const ExecContext&, TensorView, const KvLayer&, const StepView&,
                      const HeadNormSpec&, const RopeSpec&, const AttentionSpec&) override {
    Unused();
  }
  void PagedAttention(const ExecContext&, TensorView, TensorView, const KvLayer&, const StepView&,
                      const AttentionSpec&) override {
    Unused();
  }
  void GatedActivation(const ExecContext&, TensorView, TensorView, Activation) override {
    Unused();
  }
  void SoftCap(const ExecContext&, TensorView, float) override { Unused(); }
  void GatherRows(const ExecContext&, TensorView, TensorView, TensorView) override { Unused(); }
  size_t KvLayerBytes(const KvLayer&) override { return 0; }
  void CopyBlocks(const ExecContext&, const KvLayer&, const std::vector<int32_t>&,
                  const std::vector<int32_t>&) override {
    Unused();
  }
  void TopLogits(const ExecContext&, std::vector<Candidate>&, const LogitRows&, int) override {
    Unused();
  }
  void MassHistogram(const ExecContext&, std::vector<uint32_t>&, std::vector<uint64_t>&,
                     const LogitRows&, const std::vector<uint32_t>&, int, const std::vector<float>&,
                     const std::vector<float>&) override {
    Unused();
  }
  void Draw(const ExecContext&, std::vector<Candidate>&, const LogitRows&,
            const std::vector<DrawRow>&) override {
    Unused();
  }
  void GatherLogits(const ExecContext&, std::vector<float>&, TensorView,
                    const std::vector<LogitPlace>&) override {
    Unused();
  }
  void ScatterLogits(const ExecContext&, TensorView, const std::vector<LogitPlace>&,
                     const std::vector<float>&) override {
    Unused();
  }

 private:
  [[noreturn]] static void Unused() {
    CheckFailure(__FILE__, __LINE__, "false").stream() << "nobody calls this here";
    std::abort();
  }
};

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_COMM_FAKE_OPS_H_
