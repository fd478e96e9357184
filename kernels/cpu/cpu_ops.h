// The CPU backend of Ops. One object may serve several ranks: it holds nothing but the choice of
// inner loops. Every call has finished when it returns. The methods live in the file of their kind:
// memory.cc, gemm.cc, experts.cc, routing.cc, norm.cc, rope.cc, attention.cc, embedding.cc,
// activation.cc, sampling.cc.

#ifndef TESSERA_KERNELS_CPU_CPU_OPS_H_
#define TESSERA_KERNELS_CPU_CPU_OPS_H_

#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace tessera {

// The CPU's part of the numerics class in Join: results are equal bit for bit between machines that
// answer the same name. Names the arithmetic and the C library (cosf, sinf, erff, log), not the
// instruction set, which does not show in results.
std::string CpuNumericsName();

}  // namespace tessera

namespace tessera::cpu {

class CpuOps final : public Ops {
 public:
  explicit CpuOps(Isa isa) : kernels_(KernelsFor(isa)) {}

  absl::StatusOr<Buffer> Allocate(size_t bytes) override;
  void CopyToDevice(const ExecContext&, void* device, const void* host, size_t bytes) override;
  void CopyToHost(const ExecContext&, void* host, const void* device, size_t bytes) override;
  absl::Status Synchronize(const ExecContext&) override;
  size_t WorkspaceBytes(int64_t tokens_max, int64_t rows_max, int64_t widest) override;
  size_t ExpertsWorkspaceBytes(int64_t tokens_max, const ExpertSizes& sizes) override;

  bool CanRecord() const override { return false; }
  absl::Status BeginRecording(const ExecContext&) override;
  absl::StatusOr<Recording> EndRecording(const ExecContext&) override;
  absl::Status Replay(const ExecContext&, const Recording& recording) override;
  absl::StatusOr<std::unique_ptr<Weight>> NewWeight(const WeightShape& shape) override;
  void PackRows(Weight& weight, int64_t row_begin, TensorView source) override;
  void FillRows(Weight& weight, int64_t row_begin, int64_t rows, const NoiseSpec& noise) override;
  void Fill(const ExecContext&, TensorView out, const NoiseSpec& noise) override;

  void Embedding(const ExecContext&, TensorView out, TensorView tokens, TensorView table,
                 int64_t vocab_begin, float scale) override;
  void RmsNorm(const ExecContext&, TensorView out, TensorView x, const NormSpec& norm) override;
  void AddResidualNorm(const ExecContext&, TensorView out, TensorView residual, TensorView sum,
                       TensorView bias, const NormSpec& norm) override;
  void MatMul(const ExecContext&, TensorView out, TensorView x, const Weight& w,
              TensorView bias) override;
  void MatMulPartial(const ExecContext&, TensorView out, TensorView x, const Weight& w) override;
  void MatMulHeads(const ExecContext&, TensorView out, TensorView x, const Weight& w,
                   int64_t num_heads) override;
  void RouteExperts(const ExecContext&, const Routing& routing, TensorView logits, TensorView bias,
                    const RoutingSpec& spec) override;
  void ExpertsPartial(const ExecContext&, TensorView out, TensorView x, const Routing& routing,
                      const ExpertShare& share, const SharedExpert& shared,
                      TensorView load) override;
  void RopeAndStoreKv(const ExecContext&, TensorView qkv, const KvLayer& kv, const StepView& step,
                      const HeadNormSpec& norm, const RopeSpec& rope,
                      const AttentionSpec& spec) override;
  void RopeAndStoreLatent(const ExecContext&, TensorView query, TensorView q, TensorView latent,
                          const KvLayer& kv, const StepView& step, const NormSpec& norm,
                          const RopeSpec& rope, const AttentionSpec& spec) override;
  void PagedAttention(const ExecContext&, TensorView out, TensorView q, const KvLayer& kv,
                      const StepView& step, const AttentionSpec& spec) override;
  void GatedActivation(const ExecContext&, TensorView out, TensorView gate_up,
                       Activation act) override;
  void SoftCap(const ExecContext&, TensorView x, float cap) override;
  void GatherRows(const ExecContext&, TensorView out, TensorView x, TensorView index) override;
  size_t KvLayerBytes(const KvLayer& kv) override;
  void CopyBlocks(const ExecContext&, const KvLayer& kv, const std::vector<int32_t>& from,
                  const std::vector<int32_t>& to) override;

  void TopLogits(const ExecContext&, std::vector<Candidate>& best, const LogitRows& rows,
                 int n) override;
  void MassHistogram(const ExecContext&, std::vector<uint32_t>& count, std::vector<uint64_t>& mass,
                     const LogitRows& rows, const std::vector<uint32_t>& prefix, int digit,
                     const std::vector<float>& max,
                     const std::vector<float>& inv_temperature) override;
  void Draw(const ExecContext&, std::vector<Candidate>& best, const LogitRows& rows,
            const std::vector<DrawRow>& draws) override;
  void GatherLogits(const ExecContext&, std::vector<float>& values, TensorView logits,
                    const std::vector<LogitPlace>& at) override;
  void ScatterLogits(const ExecContext&, TensorView logits, const std::vector<LogitPlace>& at,
                     const std::vector<float>& values) override;

 private:
  const KernelTable& kernels_;
};

// Calls body(T{}) with the type of an activation or weight dtype.
template <typename Body>
void WithType(DType dtype, Body body) {
  if (dtype == DType::kFloat32) return body(float{});
  TESSERA_CHECK(dtype == DType::kBFloat16) << DTypeName(dtype) << " is no dtype of activations";
  body(BFloat16{});
}

// A matrix view's row.
template <typename T>
T* Row(const TensorView& view, int64_t row) {
  return view.as<T>() + row * view.stride;
}

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_CPU_OPS_H_
