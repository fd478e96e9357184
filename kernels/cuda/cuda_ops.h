// The CUDA backend of Ops: one object per rank, with one GPU, its pinned staging memory, its
// scratch for the sampler's results, and cuBLASLt. Several objects may share a GPU (ranks as
// threads). Kernels live in the .cu file of their kind; the methods here check shapes and hand over
// numbers: memory.cc, gemm.cc, rows.cc, attention.cc, sampling.cc.
//
// Methods that return nothing cannot say that the device failed: the first error is kept and
// Synchronize answers it from then on. A sticky device error ends the process above.

#ifndef TESSERA_KERNELS_CUDA_CUDA_OPS_H_
#define TESSERA_KERNELS_CUDA_CUDA_OPS_H_

#include <memory>
#include <vector>

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/row_kernels.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sampling_kernels.h"
#include "kernels/cuda/staging.h"
#include "kernels/ops.h"

namespace tessera::cuda {

ActivationForm FormOf(Activation act);

class CudaOps final : public Ops {
 public:
  // FAILED_PRECONDITION or INVALID_ARGUMENT with what is missing; see OpenGpu and CublasLt::Open.
  static absl::StatusOr<std::unique_ptr<CudaOps>> Create(int device);

  const GpuFacts& gpu() const { return gpu_; }

  absl::StatusOr<Buffer> Allocate(size_t bytes) override;
  void CopyToDevice(const ExecContext&, void* device, const void* host, size_t bytes) override;
  void CopyToHost(const ExecContext&, void* host, const void* device, size_t bytes) override;
  absl::Status Synchronize(const ExecContext&) override;
  size_t WorkspaceBytes(int64_t tokens_max, int64_t rows_max, int64_t widest) override;
  size_t ExpertsWorkspaceBytes(int64_t tokens_max, const ExpertSizes& sizes) override;

  bool CanRecord() const override { return true; }
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
  // Device scratch of the sampling calls, cut up anew in each.
  static constexpr size_t kScratchBytes = size_t{8} << 20;
  class Scratch;

  explicit CudaOps(GpuFacts gpu) : gpu_(std::move(gpu)) {}
  // Makes the GPU current on this thread and keeps the first error.
  void Enter();
  void Keep(cudaError_t error, absl::string_view what);
  void Keep(absl::Status status);
  void Launched(absl::string_view what) { Keep(cudaGetLastError(), what); }
  void Multiply(const ExecContext& context, const ProductArguments& arguments, const TensorView& x,
                const CudaWeight& weight);
  void UploadFloat8(const CudaWeight& weight, int64_t row, TensorView piece);
  // Many tokens times a float8 weight, the tokens made float8 too.
  void MultiplyFloat8(const ExecContext& context, const ProductArguments& arguments);
  void MultiplyGroups(const ProductArguments& arguments, const ProductGroups& groups,
                      const PlainTypes& types, bool wide, cudaStream_t stream);
  // out [slices, T, C] = the shared expert's product, slice by slice.
  void MultiplyShared(const ExecContext& context, float* out, const SharedExpert& shared);
  // ExpertsPartial for as many tokens as the workspace holds.
  void ExpertsPass(const ExecContext& context, TensorView out, TensorView x, const Routing& routing,
                   const ExpertShare& share, const SharedExpert& shared, const ExpertSizes& sizes,
                   TensorView load);
  // The entries [begin, begin + count) of `rows` on the device.
  EntryArguments UploadEntries(Scratch& scratch, const LogitRows& rows, size_t begin, size_t count);
  // How many entries of `rows` fit into the scratch if each part needs `bytes_per_part` and each
  // entry `bytes_per_entry`.
  size_t EntriesAtOnce(const LogitRows& rows, size_t bytes_per_part, size_t bytes_per_entry) const;

  const GpuFacts gpu_;
  std::unique_ptr<CublasLt> cublas_;
  std::unique_ptr<Staging> staging_;
  Buffer scratch_;
  absl::Status error_;
  absl::Status kept_error_;                  // error_ while a recording goes on
  std::vector<DeviceCandidate> candidates_;  // of the running call; kept for its capacity
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_CUDA_OPS_H_
