// Which kernel takes which product.
//
//   float32 on either side         PlainGemm, bits of the CPU's order
//   up to kSkinnyTokensMax tokens  SkinnyGemm: weights streamed once
//   more, deterministic            TileGemm, the bits of SkinnyGemm (SkinnyGemm itself where the
//                                  slices are padded or x is not aligned)
//   float8 weights                 SkinnyGemm, widened on the fly; more tokens, not deterministic:
//                                  cuBLASLt, the tokens made float8 too, each with its own scale
//   more, not deterministic        cuBLASLt, TileGemm where a product is done head by head

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
  ProductArguments arguments;
  arguments.tokens = out.dims[0];
  arguments.outputs = out.dims[1];
  arguments.out = out.data;
  arguments.out_stride = out.stride;
  arguments.out_bfloat16 = out.dtype == DType::kBFloat16;
  arguments.x = x.data;
  arguments.x_stride = x.stride;
  weight.Describe(arguments);
  return arguments;
}

}  // namespace

void CudaOps::Multiply(const ExecContext& context, const ProductArguments& arguments,
                       const TensorView& x, const CudaWeight& weight) {
  if (arguments.tokens == 0) return;
  Enter();
  const cudaStream_t stream = StreamOf(context);
  const PlainTypes types{x.dtype == DType::kBFloat16, weight.form()};
  if (!types.x_bfloat16 || types.w == WeightForm::kFloat32) {
    LaunchPlainGemm(arguments, types, stream);
  } else if (arguments.tokens <= kSkinnyTokensMax || !TileGemmTakes(arguments)) {
    LaunchSkinnyGemm(arguments, types.w, gpu_.multiprocessors, stream);
  } else if (types.w == WeightForm::kFloat8) {
    if (context.deterministic) {
      LaunchSkinnyGemm(arguments, types.w, gpu_.multiprocessors, stream);
    } else {
      MultiplyFloat8(context, arguments);
    }
  } else if (context.deterministic || arguments.heads > 1) {
    LaunchTileGemm(arguments, stream);
  } else {
    Keep(cublas_->Multiply(arguments, context.workspace.data, context.workspace.bytes(), stream));
  }
  Launched("multiply");
}

void CudaOps::MultiplyFloat8(const ExecContext& context, const ProductArguments& arguments) {
  const ProductSlice& last = arguments.slice[arguments.slices - 1];
  const int64_t columns = last.packed_begin + last.count;
  const size_t matrix = static_cast<size_t>(arguments.tokens * columns + 255) / 256 * 256;
  const size_t scales = static_cast<size_t>(arguments.tokens * 4 + 255) / 256 * 256;
  if (matrix + scales > context.workspace.bytes() || columns % 16 != 0) {
    return LaunchSkinnyGemm(arguments, WeightForm::kFloat8, gpu_.multiprocessors,
                            StreamOf(context));
  }
  uint8_t* scratch = context.workspace.as<uint8_t>();
  QuantizeArguments quantize;
  quantize.rows = arguments.tokens;
  quantize.columns = columns;
  quantize.x = arguments.x;
  quantize.x_stride = arguments.x_stride;
  quantize.x8 = scratch;
  quantize.scales = reinterpret_cast<float*>(scratch + matrix);
  const cudaStream_t stream = StreamOf(context);
  LaunchQuantize(quantize, stream);
  Launched("quantize activations");
  ProductArguments product = arguments;
  product.x = quantize.x8;
  product.x_stride = columns;
  Keep(cublas_->MultiplyFloat8(product, quantize.scales, scratch + matrix + scales,
                               context.workspace.bytes() - matrix - scales, stream));
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
                out.dims[0] == x.dims[0] && out.dtype == x.dtype && !weight.row_parallel() &&
                weight.form() != WeightForm::kFloat8)
      << "weight [" << weight.rows() << ", " << weight.columns() << "] for " << num_heads;
  const int64_t n = weight.rows() / num_heads;
  const int64_t out_head = out.dims[1] / num_heads;
  const int64_t x_head = x.dims[1] / num_heads;
  TESSERA_CHECK(n <= out_head && weight.columns() <= x_head)
      << "heads of " << out_head << " from heads of " << x_head;
  ProductArguments arguments;
  arguments.tokens = out.dims[0];
  arguments.outputs = n;
  arguments.out = out.data;
  arguments.out_stride = out.stride;
  arguments.out_bfloat16 = out.dtype == DType::kBFloat16;
  arguments.x = x.data;
  arguments.x_stride = x.stride;
  weight.Describe(arguments);
  arguments.heads = static_cast<int>(num_heads);
  arguments.x_head = x_head;
  arguments.out_head = out_head;
  arguments.w_head = n * arguments.w_stride;
  Multiply(context, arguments, x, weight);
}

}  // namespace tessera::cuda
