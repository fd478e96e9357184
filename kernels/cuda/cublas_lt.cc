// cuBLASLt thinks in columns: our row-major out [T, N] is its [N, T], so w [N, K] is its transposed
// left operand and x its right one.

#include "kernels/cuda/cublas_lt.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tessera::cuda {
namespace {

constexpr size_t kPlansMax = 8192;  // then all are forgotten

absl::Status Check(cublasStatus_t status, absl::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("cuBLASLt cannot ", what, ": status ", static_cast<int>(status)));
}

}  // namespace

struct CublasLt::Plan {
  explicit Plan(const Functions& functions_in) : functions(functions_in) {}
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {w, x, out}) {
      if (layout != nullptr) functions.layout_destroy(layout);
    }
    if (operation != nullptr) functions.desc_destroy(operation);
  }
  const Functions& functions;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t w = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t out = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};
};

CublasLt::CublasLt(SharedLibrary library) : library_(std::move(library)) {}

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Open() {
  TESSERA_ASSIGN_OR_RETURN(SharedLibrary library,
                           SharedLibrary::Open({"libcublasLt.so.13", "libcublasLt.so"}));
  std::unique_ptr<CublasLt> lt(new CublasLt(std::move(library)));
  Functions& f = lt->functions_;
  const SharedLibrary& from = lt->library_;
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtCreate", f.create));
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtDestroy", f.destroy));
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtMatmul", f.matmul));
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtMatmulDescCreate", f.desc_create));
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtMatmulDescDestroy", f.desc_destroy));
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtMatmulDescSetAttribute", f.desc_set));
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtMatrixLayoutCreate", f.layout_create));
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtMatrixLayoutDestroy", f.layout_destroy));
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtMatmulPreferenceCreate", f.preference_create));
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtMatmulPreferenceDestroy", f.preference_destroy));
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtMatmulPreferenceSetAttribute", f.preference_set));
  TESSERA_RETURN_IF_ERROR(from.Find("cublasLtMatmulAlgoGetHeuristic", f.heuristic));
  TESSERA_RETURN_IF_ERROR(Check(f.create(&lt->handle_), "start"));
  return lt;
}

CublasLt::~CublasLt() {
  plans_.clear();
  if (handle_ != nullptr) functions_.destroy(handle_);
}

template <typename T>
absl::Status CublasLt::Set(const Plan& plan, cublasLtMatmulDescAttributes_t attribute,
                           const T& value) {
  return Check(functions_.desc_set(plan.operation, attribute, &value, sizeof(value)),
               absl::StrCat("set attribute ", static_cast<int>(attribute), " of a product"));
}

absl::Status CublasLt::MakeOperation(Plan& plan, bool bias, bool float8) {
  TESSERA_RETURN_IF_ERROR(
      Check(functions_.desc_create(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
            "describe a product"));
  TESSERA_RETURN_IF_ERROR(Set(plan, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T));
  if (bias) {
    TESSERA_RETURN_IF_ERROR(Set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS));
    TESSERA_RETURN_IF_ERROR(Set(plan, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_16BF));
  }
  if (!float8) return absl::OkStatus();
  const int32_t rows = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  TESSERA_RETURN_IF_ERROR(Set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, rows));
  return Set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, rows);
}

absl::StatusOr<const CublasLt::Plan*> CublasLt::PlanFor(const ProductArguments& a, bool float8,
                                                        size_t workspace_bytes) {
  const ProductSlice& last = a.slice[a.slices - 1];
  const int64_t inputs = last.packed_begin + last.count;
  const Shape shape(a.tokens, a.outputs, inputs, a.x_stride, a.w_stride, a.out_stride,
                    a.out_bfloat16, a.bias != nullptr, float8);
  const auto found = plans_.find(shape);
  if (found != plans_.end()) return found->second.get();
  auto plan = std::make_unique<Plan>(functions_);
  const Functions& f = functions_;
  TESSERA_RETURN_IF_ERROR(MakeOperation(*plan, a.bias != nullptr, float8));
  const auto layout = [&](cublasLtMatrixLayout_t& made, cudaDataType_t type, int64_t rows,
                          int64_t columns, int64_t stride) {
    return Check(f.layout_create(&made, type, rows, columns, stride), "describe a matrix");
  };
  const cudaDataType_t out_type = a.out_bfloat16 ? CUDA_R_16BF : CUDA_R_32F;
  const cudaDataType_t type = float8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
  TESSERA_RETURN_IF_ERROR(layout(plan->w, type, inputs, a.outputs, a.w_stride));
  TESSERA_RETURN_IF_ERROR(layout(plan->x, type, inputs, a.tokens, a.x_stride));
  TESSERA_RETURN_IF_ERROR(layout(plan->out, out_type, a.outputs, a.tokens, a.out_stride));
  cublasLtMatmulPreference_t preference = nullptr;
  TESSERA_RETURN_IF_ERROR(Check(f.preference_create(&preference), "prefer"));
  f.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                   sizeof(workspace_bytes));
  cublasLtMatmulHeuristicResult_t result = {};
  int results = 0;
  const cublasStatus_t status = f.heuristic(handle_, plan->operation, plan->w, plan->x, plan->out,
                                            plan->out, preference, 1, &result, &results);
  f.preference_destroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || results == 0) {
    return absl::InternalError(absl::StrCat("cuBLASLt has no product of [", a.tokens, ", ", inputs,
                                            "] and [", a.outputs, ", ", inputs, "]: status ",
                                            static_cast<int>(status)));
  }
  plan->algorithm = result.algo;
  if (plans_.size() >= kPlansMax) plans_.clear();
  return plans_.emplace(shape, std::move(plan)).first->second.get();
}

absl::Status CublasLt::Multiply(const ProductArguments& a, void* workspace, size_t workspace_bytes,
                                cudaStream_t stream) {
  TESSERA_ASSIGN_OR_RETURN(const Plan* plan, PlanFor(a, false, workspace_bytes));
  if (a.bias != nullptr) {
    TESSERA_RETURN_IF_ERROR(Set(*plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, a.bias));
  }
  const float one = 1.0f;
  const float zero = 0.0f;
  return Check(functions_.matmul(handle_, plan->operation, &one, a.w, plan->w, a.x, plan->x, &zero,
                                 a.out, plan->out, a.out, plan->out, &plan->algorithm, workspace,
                                 workspace_bytes, stream),
               "multiply");
}

absl::Status CublasLt::MultiplyFloat8(const ProductArguments& a, const float* x_scales,
                                      void* workspace, size_t workspace_bytes,
                                      cudaStream_t stream) {
  // Slices that share their scales lie side by side: one product.
  const int parts = a.slice_scales ? a.slices : 1;
  const float one = 1.0f;
  const float zero = 0.0f;
  for (int part = 0; part < parts; ++part) {
    ProductArguments piece = a;
    if (parts > 1) {
      piece.x = static_cast<const uint8_t*>(a.x) + a.slice[part].x_begin;
      piece.w = static_cast<const uint8_t*>(a.w) + a.slice[part].packed_begin;
      piece.slices = 1;
      piece.slice[0] = {.packed_begin = 0, .x_begin = 0, .count = a.slice[part].count};
    }
    TESSERA_ASSIGN_OR_RETURN(const Plan* plan, PlanFor(piece, true, workspace_bytes));
    const void* w_scales =
        static_cast<const char*>(a.w) + a.scale_offset + part * a.scale_stride * 4;
    TESSERA_RETURN_IF_ERROR(Set(*plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, w_scales));
    const void* scales = x_scales;
    TESSERA_RETURN_IF_ERROR(Set(*plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scales));
    if (a.bias != nullptr) {
      TESSERA_RETURN_IF_ERROR(Set(*plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, a.bias));
    }
    TESSERA_RETURN_IF_ERROR(
        Check(functions_.matmul(handle_, plan->operation, &one, piece.w, plan->w, piece.x, plan->x,
                                part == 0 ? &zero : &one, a.out, plan->out, a.out, plan->out,
                                &plan->algorithm, workspace, workspace_bytes, stream),
              "multiply float8"));
  }
  return absl::OkStatus();
}

}  // namespace tessera::cuda
