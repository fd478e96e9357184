// Checks of the row operations, and their hand-over to the kernels.

#include <bit>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/row_kernels.h"
#include "kernels/peer_sum.h"

namespace tessera::cuda {
namespace {

bool IsBFloat16(DType dtype) {
  TESSERA_CHECK(dtype == DType::kBFloat16 || dtype == DType::kFloat32)
      << DTypeName(dtype) << " is no dtype of activations";
  return dtype == DType::kBFloat16;
}

Rows RowsOf(const TensorView& view) { return {view.data, view.stride}; }

void CheckWeight(const TensorView& weight, const TensorView& x) {
  TESSERA_CHECK(weight.dims[0] == x.dims[1] && weight.dtype == x.dtype)
      << "x [" << x.dims[0] << ", " << x.dims[1] << "] " << DTypeName(x.dtype) << ", weight ["
      << weight.dims[0] << "] " << DTypeName(weight.dtype);
}

// What the norms share.
NormArguments ArgumentsOf(const TensorView& out, const TensorView& x, const NormSpec& norm) {
  TESSERA_CHECK(x.dims[1] <= kNormColumnsMax) << "norm of " << x.dims[1] << " columns";
  CheckWeight(norm.weight, x);
  if (!norm.bias.empty()) {
    CheckWeight(norm.bias, x);
    TESSERA_CHECK(!norm.plus_one && norm.sum_weight.empty()) << "a layer norm is a plain one";
  }
  NormArguments arguments;
  arguments.bfloat16 = IsBFloat16(x.dtype);
  arguments.rows = x.dims[0];
  arguments.columns = x.dims[1];
  arguments.out = RowsOf(out);
  arguments.weight = norm.weight.data;
  arguments.norm_bias = norm.bias.data;
  arguments.eps = norm.eps;
  arguments.offset = norm.plus_one ? 1.0f : 0.0f;
  return arguments;
}

NormArguments ResidualArguments(const TensorView& out, const TensorView& residual,
                                const TensorView& bias, const NormSpec& norm) {
  TESSERA_CHECK(out.rank == 2 && out.dims == residual.dims && out.dtype == residual.dtype)
      << "residual [" << residual.dims[0] << ", " << residual.dims[1] << "]";
  NormArguments arguments = ArgumentsOf(out, residual, norm);
  if (!bias.empty()) CheckWeight(bias, residual);
  if (!norm.sum_weight.empty()) CheckWeight(norm.sum_weight, residual);
  arguments.residual = RowsOf(residual);
  arguments.bias = bias.data;
  arguments.sum_weight = norm.sum_weight.data;
  return arguments;
}

}  // namespace

ActivationForm FormOf(Activation act) {
  switch (act) {
    case Activation::kSilu:
      return ActivationForm::kSilu;
    case Activation::kGeluTanh:
      return ActivationForm::kGeluTanh;
    case Activation::kGelu:
      return ActivationForm::kGelu;
  }
  return ActivationForm::kSilu;
}

void CudaOps::Embedding(const ExecContext& context, TensorView out, TensorView tokens,
                        TensorView table, int64_t vocab_begin, float scale) {
  TESSERA_CHECK(out.rank == 2 && table.rank == 2 && out.dims[0] == tokens.dims[0] &&
                out.dims[1] == table.dims[1] && out.dtype == DType::kFloat32 &&
                tokens.dtype == DType::kInt32)
      << "out [" << out.dims[0] << ", " << out.dims[1] << "], " << tokens.dims[0]
      << " tokens, table [" << table.dims[0] << ", " << table.dims[1] << "]";
  Enter();
  LaunchEmbedding({.bfloat16 = IsBFloat16(table.dtype),
                   .rows = out.dims[0],
                   .columns = out.dims[1],
                   .out = RowsOf(out),
                   .table = RowsOf(table),
                   .table_rows = table.dims[0],
                   .tokens = tokens.as<const int32_t>(),
                   .vocab_begin = vocab_begin,
                   .scale = scale},
                  StreamOf(context));
  Launched("look up embeddings");
}

void CudaOps::RmsNorm(const ExecContext& context, TensorView out, TensorView x,
                      const NormSpec& norm) {
  TESSERA_CHECK(out.rank == 2 && x.rank == 2 && out.dims == x.dims && out.dtype == x.dtype)
      << "x [" << x.dims[0] << ", " << x.dims[1] << "]";
  NormArguments arguments = ArgumentsOf(out, x, norm);
  arguments.x = RowsOf(x);
  Enter();
  LaunchNorm(arguments, StreamOf(context));
  Launched("norm rows");
}

void CudaOps::AddResidualNorm(const ExecContext& context, TensorView out, TensorView residual,
                              TensorView sum, TensorView bias, const NormSpec& norm) {
  TESSERA_CHECK(sum.dims == residual.dims && sum.dtype == DType::kFloat32)
      << "sum [" << sum.dims[0] << ", " << sum.dims[1] << "]";
  NormArguments arguments = ResidualArguments(out, residual, bias, norm);
  arguments.parts[0] = sum.as<const float>();
  arguments.part_stride = sum.stride;
  arguments.bias = bias.data;
  arguments.sum_weight = norm.sum_weight.data;
  Enter();
  LaunchNorm(arguments, StreamOf(context));
  Launched("add and norm rows");
}

void CudaOps::GatedActivation(const ExecContext& context, TensorView out, TensorView gate_up,
                              Activation act) {
  TESSERA_CHECK(out.rank == 2 && gate_up.rank == 2 && out.dims[0] == gate_up.dims[0] &&
                gate_up.dims[1] == 2 * out.dims[1] && out.dtype == gate_up.dtype)
      << "out [" << out.dims[0] << ", " << out.dims[1] << "], gate_up [" << gate_up.dims[0] << ", "
      << gate_up.dims[1] << "]";
  Enter();
  LaunchGated({.bfloat16 = IsBFloat16(out.dtype),
               .rows = out.dims[0],
               .columns = out.dims[1],
               .out = RowsOf(out),
               .gate_up = RowsOf(gate_up),
               .form = FormOf(act)},
              StreamOf(context));
  Launched("activate rows");
}

void CudaOps::SoftCap(const ExecContext& context, TensorView x, float cap) {
  TESSERA_CHECK(x.rank == 2 && x.dtype == DType::kFloat32 && cap > 0) << "cap " << cap;
  Enter();
  LaunchSoftCap(RowsOf(x), x.dims[0], x.dims[1], cap, StreamOf(context));
  Launched("cap logits");
}

void CudaOps::GatherRows(const ExecContext& context, TensorView out, TensorView x,
                         TensorView index) {
  TESSERA_CHECK(out.rank == 2 && x.rank == 2 && out.dims[0] == index.dims[0] &&
                out.dims[1] == x.dims[1] && out.dtype == x.dtype && index.dtype == DType::kInt32)
      << "out [" << out.dims[0] << ", " << out.dims[1] << "], x [" << x.dims[0] << ", " << x.dims[1]
      << "], " << index.dims[0] << " indices";
  Enter();
  LaunchGather({.element_bytes = IsBFloat16(x.dtype) ? 2 : 4,
                .rows = out.dims[0],
                .columns = out.dims[1],
                .out = RowsOf(out),
                .x = RowsOf(x),
                .x_rows = x.dims[0],
                .index = index.as<const int32_t>()},
               StreamOf(context));
  Launched("gather rows");
}

}  // namespace tessera::cuda

namespace tessera {

absl::Status SumPeers(const ExecContext& context, float* out,
                      const std::vector<const float*>& parts, int64_t n) {
  TESSERA_CHECK(parts.size() <= kPeersMax && std::has_single_bit(parts.size())) << parts.size();
  cuda::LaunchTreeSum(out, parts.data(), static_cast<int>(parts.size()), n,
                      cuda::StreamOf(context));
  return cuda::StatusOf(cudaGetLastError(), "sum over the ranks");
}

absl::Status SumPeersResidualNorm(const ExecContext& context, TensorView out, TensorView residual,
                                  const std::vector<const float*>& parts, TensorView bias,
                                  const NormSpec& norm) {
  TESSERA_CHECK(parts.size() <= kPeersMax && std::has_single_bit(parts.size())) << parts.size();
  cuda::NormArguments arguments = cuda::ResidualArguments(out, residual, bias, norm);
  for (size_t p = 0; p < parts.size(); ++p) arguments.parts[p] = parts[p];
  arguments.num_parts = static_cast<int>(parts.size());
  arguments.part_stride = residual.dims[1];
  cuda::LaunchNorm(arguments, cuda::StreamOf(context));
  return cuda::StatusOf(cudaGetLastError(), "sum over the ranks and norm");
}

}  // namespace tessera
