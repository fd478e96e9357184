// cuBLASLt for products of many tokens, opened when a GPU is. Picks an algorithm per shape by the
// library's own heuristic and remembers it. One per CudaOps, used on its thread. Its reduction
// order depends on the shape, so it is only used where a step need not be deterministic.

#ifndef TESSERA_KERNELS_CUDA_CUBLAS_LT_H_
#define TESSERA_KERNELS_CUDA_CUBLAS_LT_H_

#include <cublasLt.h>

#include <map>
#include <memory>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/gemm_kernels.h"
#include "kernels/shared_library.h"

namespace tessera::cuda {

class CublasLt {
 public:
  // NOT_FOUND saying where the library was looked for.
  static absl::StatusOr<std::unique_ptr<CublasLt>> Open();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // The product of bfloat16 x and w whose slices lie as in the matrices (TileGemmTakes). INTERNAL
  // with the library's word.
  absl::Status Multiply(const ProductArguments& arguments, void* workspace, size_t workspace_bytes,
                        cudaStream_t stream);
  // The same of float8 x, a scale for each token, and float8 w. Slices with scales of their own are
  // added one after the other.
  absl::Status MultiplyFloat8(const ProductArguments& arguments, const float* x_scales,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream);

 private:
  struct Functions {
    decltype(&cublasLtCreate) create;
    decltype(&cublasLtDestroy) destroy;
    decltype(&cublasLtMatmul) matmul;
    decltype(&cublasLtMatmulDescCreate) desc_create;
    decltype(&cublasLtMatmulDescDestroy) desc_destroy;
    decltype(&cublasLtMatmulDescSetAttribute) desc_set;
    decltype(&cublasLtMatrixLayoutCreate) layout_create;
    decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
    decltype(&cublasLtMatmulPreferenceCreate) preference_create;
    decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
    decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
    decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  };
  // tokens, outputs, inputs, strides of x, w and out, out type, bias, float8
  using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool, bool>;
  struct Plan;

  explicit CublasLt(SharedLibrary library);
  absl::StatusOr<const Plan*> PlanFor(const ProductArguments& arguments, bool float8,
                                      size_t workspace_bytes);
  template <typename T>
  absl::Status Set(const Plan& plan, cublasLtMatmulDescAttributes_t attribute, const T& value);
  absl::Status MakeOperation(Plan& plan, bool bias, bool float8);

  const SharedLibrary library_;
  Functions functions_ = {};
  cublasLtHandle_t handle_ = nullptr;
  std::map<Shape, std::unique_ptr<Plan>> plans_;
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_CUBLAS_LT_H_
