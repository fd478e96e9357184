// Which kernel takes which product.
//
//   float32 on either side         PlainGemm, bits of the CPU's order
//   up to kSkinnyTokensMax tokens  SkinnyGemm: weights streamed once
//   more, deterministic            TileGemm, the bits of SkinnyGemm (SkinnyGemm itself where the
//                                  slices are padded or x is not aligned)
//   more, not deterministic        cuBLASLt

#include "kernels/cuda/cuda_ops.h"

namespace tessera::cuda {
namespace {

// Beyond it one more pass over the weights costs more than shared memory.
constexpr int64_t kSkinnyTokensMax = 16;

ProductArguments ArgumentsOf(const TensorView& out, const TensorView& x, const CudaWeight& weight) {
  TESSERA_CHECK(out.rank == 2 && x.rank == 2 && out.dims[0] == x.dims[0] &&
                out.dims[1] == weight.rows() && x.dims[1] == weight.columns())
      << "out [" << out.dims[0] << ", " << out.dims[1] << "], x [" << x.dims[0] << ", " << x.dims[1]
      << "], weight [" << weight.rows() << ", " << weight.columns() << "]";
  TESSERA_CHECK(out.dtype == DType::kFloat32 ||
                (out.dtype == DType::kBFloat16 && x.dtype == DType::kBFloat16))
      << DTypeName(out.dtype) << " product of " << DTypeName(x.dtype);
  const WeightLayout& layout = weight.layout();
  ProductArguments arguments;
  arguments.tokens = out.dims[0];
  arguments.outputs = out.dims[1];
  arguments.out = out.data;
  arguments.out_stride = out.stride;
  arguments.out_bfloat16 = out.dtype == DType::kBFloat16;
  arguments.x = x.data;
  arguments.x_stride = x.stride;
  arguments.w = weight.data();
  arguments.w_stride = layout.packed_columns;
  arguments.slices = static_cast<int>(layout.slices.size());
  for (int s = 0; s < arguments.slices; ++s) arguments.slice[s] = layout.slices[s];
  return arguments;
}

}  // namespace

void CudaOps::Multiply(const ExecContext& context, const ProductArguments& arguments,
                       const TensorView& x, const CudaWeight& weight) {
  if (arguments.tokens == 0) return;
  Enter();
  const cudaStream_t stream = StreamOf(context);
  const PlainTypes types{x.dtype == DType::kBFloat16, weight.dtype() == DType::kBFloat16};
  if (!types.x_bfloat16 || !types.w_bfloat16) {
    LaunchPlainGemm(arguments, types, stream);
  } else if (arguments.tokens <= kSkinnyTokensMax || !TileGemmTakes(arguments)) {
    LaunchSkinnyGemm(arguments, gpu_.multiprocessors, stream);
  } else if (context.deterministic) {
    LaunchTileGemm(arguments, stream);
  } else {
    Keep(cublas_->Multiply(arguments, context.workspace.data, context.workspace.bytes(), stream));
  }
  Launched("multiply");
}

void CudaOps::MatMul(const ExecContext& context, TensorView out, TensorView x, const Weight& w,
                     TensorView bias) {
  const CudaWeight& weight = static_cast<const CudaWeight&>(w);
  TESSERA_CHECK(!weight.row_parallel()) << "row-parallel weight given to MatMul";
  TESSERA_CHECK(bias.empty() || (bias.dtype == x.dtype && bias.dims[0] == weight.rows()))
      << "bias of " << bias.dims[0] << " " << DTypeName(bias.dtype);
  ProductArguments arguments = ArgumentsOf(out, x, weight);
  arguments.bias = bias.data;
  Multiply(context, arguments, x, weight);
}

void CudaOps::MatMulPartial(const ExecContext& context, TensorView out, TensorView x,
                            const Weight& w) {
  const CudaWeight& weight = static_cast<const CudaWeight&>(w);
  TESSERA_CHECK(weight.row_parallel()) << "MatMulPartial needs a row-parallel weight";
  TESSERA_CHECK(out.dtype == DType::kFloat32) << DTypeName(out.dtype) << " partial sums";
  Multiply(context, ArgumentsOf(out, x, weight), x, weight);
}

void CudaOps::MatMulHeads(const ExecContext& context, TensorView out, TensorView x, const Weight& w,
                          int64_t num_heads) {
  const CudaWeight& weight = static_cast<const CudaWeight&>(w);
  TESSERA_CHECK(num_heads > 0 && weight.rows() % num_heads == 0 && out.rank == 2 && x.rank == 2 &&
                out.dims[0] == x.dims[0] && out.dtype == x.dtype && !weight.row_parallel())
      << "weight [" << weight.rows() << ", " << weight.columns() << "] for " << num_heads;
  const int64_t n = weight.rows() / num_heads;
  const int64_t out_head = out.dims[1] / num_heads;
  const int64_t x_head = x.dims[1] / num_heads;
  TESSERA_CHECK(n <= out_head && weight.columns() <= x_head)
      << "heads of " << out_head << " from heads of " << x_head;
  ProductArguments arguments;
  for (int64_t head = 0; head < num_heads; ++head) {
    const TensorView from = x.Columns(head * x_head, weight.columns());
    const TensorView to = out.Columns(head * out_head, n);
    arguments.tokens = out.dims[0];
    arguments.outputs = n;
    arguments.out = to.data;
    arguments.out_stride = out.stride;
    arguments.out_bfloat16 = out.dtype == DType::kBFloat16;
    arguments.x = from.data;
    arguments.x_stride = x.stride;
    arguments.w = static_cast<char*>(weight.data()) + head * n * weight.row_bytes();
    arguments.w_stride = weight.layout().packed_columns;
    arguments.slices = static_cast<int>(weight.layout().slices.size());
    for (int s = 0; s < arguments.slices; ++s) arguments.slice[s] = weight.layout().slices[s];
    Multiply(context, arguments, from, weight);
  }
}

void CudaOps::RouteExperts(const ExecContext&, const Routing&, TensorView, TensorView,
                           const RoutingSpec&) {
  TESSERA_CHECK(false) << "RouteExperts is not implemented on CUDA; run this model with --device "
                          "cpu";
}

void CudaOps::ExpertsPartial(const ExecContext&, TensorView, TensorView, const Routing&,
                             const ExpertShare&, const SharedExpert&, TensorView) {
  TESSERA_CHECK(false) << "ExpertsPartial is not implemented on CUDA; run this model with --device "
                          "cpu";
}

}  // namespace tessera::cuda
