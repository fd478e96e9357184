// Checks of attention and the cache, the choice of kernel, and passes over rows when the partial
// results of all do not fit into the workspace.

#include <algorithm>

#include "kernels/cuda/cuda_ops.h"

namespace tessera::cuda {
namespace {

// Rows of a pass; the kernels keep a table of them.
constexpr int64_t kPassRowsMax = 1024;
// Without determinism: chunks this long once there are enough rows to fill the GPU, fewer partial
// results to write; shorter ones below, more warps.
constexpr int64_t kChunkTokensMany = 256;
constexpr int64_t kChunkTokensFew = 64;
constexpr int64_t kManyWarps = 512;

bool IsBFloat16(DType dtype) {
  TESSERA_CHECK(dtype == DType::kBFloat16 || dtype == DType::kFloat32)
      << DTypeName(dtype) << " is no dtype of activations or caches";
  return dtype == DType::kBFloat16;
}

int64_t KvBlockElements(const KvLayer& kv) {
  return kv.num_heads * (kv.latent ? 1 : 2) * kv.head_size * kv.block_size;
}

KvArguments KvOf(const KvLayer& kv) {
  return {.storage = kv.storage.data,
          .bfloat16 = IsBFloat16(kv.dtype),
          .num_blocks = kv.num_blocks,
          .block_size = static_cast<int>(kv.block_size),
          .num_heads = static_cast<int>(kv.num_heads),
          .head_size = static_cast<int>(kv.head_size),
          .latent = kv.latent};
}

StepArguments StepOf(const StepView& step) {
  return {.num_rows = static_cast<int>(step.num_rows),
          .num_tokens = static_cast<int>(step.num_tokens),
          .positions = step.positions.as<const int32_t>(),
          .query_begin = step.query_begin.as<const int32_t>(),
          .kv_length = step.kv_length.as<const int32_t>(),
          .block_table = step.block_table.as<const int32_t>(),
          .table_stride = step.block_table.stride,
          .table_blocks = static_cast<int>(step.block_table.dims[1])};
}

void CheckRope(const RopeSpec& rope, int64_t head_size) {
  TESSERA_CHECK(rope.rotary_size % 2 == 0 && rope.rotary_size <= head_size &&
                (rope.rotary_size == 0 || rope.inv_frequency.dims[0] == rope.rotary_size / 2))
      << "rotary size " << rope.rotary_size;
}

RopeArguments RopeOf(const KvLayer& kv, const StepView& step, const RopeSpec& rope) {
  RopeArguments arguments;
  arguments.kv = KvOf(kv);
  arguments.step = StepOf(step);
  arguments.inv_frequency = rope.inv_frequency.as<const float>();
  arguments.rotary_size = static_cast<int>(rope.rotary_size);
  arguments.attention_factor = rope.attention_factor;
  arguments.interleaved = rope.interleaved;
  return arguments;
}

}  // namespace

void CudaOps::RopeAndStoreKv(const ExecContext& context, TensorView qkv, const KvLayer& kv,
                             const StepView& step, const HeadNormSpec& norm, const RopeSpec& rope,
                             const AttentionSpec& spec) {
  const int64_t size = spec.head_size;
  TESSERA_CHECK(qkv.rank == 2 && qkv.dims[0] == step.num_tokens &&
                qkv.dims[1] == (spec.num_heads + 2 * spec.num_kv_heads) * size &&
                kv.num_heads == spec.num_kv_heads && kv.head_size == size &&
                size <= kHeadElementsMax)
      << "qkv [" << qkv.dims[0] << ", " << qkv.dims[1] << "], " << spec.num_heads << " + "
      << spec.num_kv_heads << " heads of " << size;
  CheckRope(rope, size);
  TESSERA_CHECK(!kv.latent) << "keys and values for a latent cache";
  for (const TensorView& weight : {norm.query, norm.key}) {
    TESSERA_CHECK(weight.empty() || (weight.dims[0] == size && weight.dtype == qkv.dtype))
        << "head norm of " << weight.dims[0] << " elements";
  }
  RopeArguments arguments = RopeOf(kv, step, rope);
  arguments.bfloat16 = IsBFloat16(qkv.dtype);
  arguments.qkv = qkv.data;
  arguments.qkv_stride = qkv.stride;
  arguments.num_heads = static_cast<int>(spec.num_heads);
  arguments.query_norm = norm.query.data;
  arguments.key_norm = norm.key.data;
  arguments.eps = norm.eps;
  arguments.offset = norm.plus_one ? 1.0f : 0.0f;
  Enter();
  LaunchRope(arguments, StreamOf(context));
  Launched("turn and store keys and values");
}

void CudaOps::RopeAndStoreLatent(const ExecContext& context, TensorView query, TensorView q,
                                 TensorView latent, const KvLayer& kv, const StepView& step,
                                 const NormSpec& norm, const RopeSpec& rope,
                                 const AttentionSpec& spec) {
  const int64_t entry = kv.head_size;
  const int64_t head = q.dims[1] / spec.num_heads;
  CheckRope(rope, entry);
  TESSERA_CHECK(kv.latent && kv.num_heads == 1 && entry <= kHeadElementsMax &&
                query.dims[0] == step.num_tokens && query.dims[1] == spec.num_heads * entry &&
                q.dims[0] == step.num_tokens && q.dims[1] == spec.num_heads * head &&
                head >= rope.rotary_size && latent.dims[0] == step.num_tokens &&
                latent.dims[1] == entry && query.dtype == q.dtype && latent.dtype == q.dtype)
      << "query [" << query.dims[0] << ", " << query.dims[1] << "], q [" << q.dims[0] << ", "
      << q.dims[1] << "], latent [" << latent.dims[0] << ", " << latent.dims[1] << "], entries of "
      << entry;
  TESSERA_CHECK(norm.weight.dims[0] == entry - rope.rotary_size && norm.weight.dtype == q.dtype &&
                norm.bias.empty())
      << "norm of " << norm.weight.dims[0] << " elements";
  LatentArguments arguments;
  arguments.rope = RopeOf(kv, step, rope);
  arguments.rope.bfloat16 = IsBFloat16(q.dtype);
  arguments.rope.qkv = latent.data;
  arguments.rope.qkv_stride = latent.stride;
  arguments.rope.num_heads = static_cast<int>(spec.num_heads);
  arguments.rope.key_norm = norm.weight.data;
  arguments.rope.eps = norm.eps;
  arguments.rope.offset = norm.plus_one ? 1.0f : 0.0f;
  arguments.q = q.data;
  arguments.q_stride = q.stride;
  arguments.q_head = static_cast<int>(head);
  arguments.query = query.data;
  arguments.query_stride = query.stride;
  Enter();
  LaunchLatentRope(arguments, StreamOf(context));
  Launched("turn and store latents");
}

void CudaOps::PagedAttention(const ExecContext& context, TensorView out, TensorView q,
                             const KvLayer& kv, const StepView& step, const AttentionSpec& spec) {
  const int64_t value_size = spec.value_size == 0 ? spec.head_size : spec.value_size;
  TESSERA_CHECK(out.rank == 2 && q.rank == 2 && out.dims[0] == step.num_tokens &&
                q.dims[0] == step.num_tokens && out.dims[1] == spec.num_heads * value_size &&
                q.dims[1] == spec.num_heads * spec.head_size && out.dtype == q.dtype)
      << "out [" << out.dims[0] << ", " << out.dims[1] << "], q [" << q.dims[0] << ", " << q.dims[1]
      << "]";
  TESSERA_CHECK(spec.num_kv_heads > 0 && spec.num_heads % spec.num_kv_heads == 0 &&
                kv.num_heads == spec.num_kv_heads && kv.head_size == spec.head_size &&
                spec.head_size <= kHeadElementsMax && kv.block_size > 0)
      << spec.num_heads << " heads, " << spec.num_kv_heads << " KV heads of " << spec.head_size;
  TESSERA_CHECK(kv.latent ? value_size <= spec.head_size : value_size == spec.head_size)
      << "values of " << value_size;
  AttentionArguments arguments;
  arguments.bfloat16 = IsBFloat16(q.dtype);
  arguments.out = out.data;
  arguments.out_stride = out.stride;
  arguments.q = q.data;
  arguments.q_stride = q.stride;
  arguments.num_heads = static_cast<int>(spec.num_heads);
  arguments.value_size = static_cast<int>(value_size);
  arguments.kv = KvOf(kv);
  arguments.step = StepOf(step);
  arguments.scale = spec.scale;
  arguments.window = spec.window;
  arguments.softcap = spec.softcap;
  Enter();
  const cudaStream_t stream = StreamOf(context);
  if (!TensorAttentionTakes(arguments)) {
    LaunchPlainAttention(arguments, stream);
    Launched("attend");
    return;
  }
  arguments.long_rows = context.deterministic;
  if (!context.deterministic) {
    arguments.chunk_tokens =
        step.num_rows * kv.num_heads >= kManyWarps ? kChunkTokensMany : kChunkTokensFew;
    if (step.num_tokens > step.num_rows) LaunchFlashPrefill(arguments, stream);
  }
  // The longest row has as many chunks as the block table has room for, at most kChunksMax.
  const int64_t longest = step.block_table.dims[1] * kv.block_size;
  const int64_t chunk = ChunkTokens(longest, arguments.chunk_tokens);
  // Shorter rows may be cut finer, into up to kChunksMax.
  const int64_t chunks =
      chunk > arguments.chunk_tokens ? kChunksMax : (longest + chunk - 1) / chunk;
  const int64_t row_floats = spec.num_heads * chunks * (spec.head_size + 2);
  const int64_t room = static_cast<int64_t>(context.workspace.bytes() / sizeof(float)) / row_floats;
  TESSERA_CHECK(room >= 1) << "workspace of " << context.workspace.bytes() << " bytes for "
                           << spec.num_heads << " heads and " << chunks << " chunks";
  arguments.partial = context.workspace.as<float>();
  arguments.partial_chunks = static_cast<int>(chunks);
  const int64_t pass = std::min(room, kPassRowsMax);
  for (int64_t row = 0; row < step.num_rows; row += pass) {
    arguments.row_begin = static_cast<int>(row);
    arguments.row_count = static_cast<int>(std::min(pass, step.num_rows - row));
    LaunchTensorAttention(arguments, gpu_.multiprocessors, stream);
  }
  Launched("attend");
}

size_t CudaOps::KvLayerBytes(const KvLayer& kv) {
  return static_cast<size_t>(kv.num_blocks * KvBlockElements(kv)) * DTypeSize(kv.dtype);
}

void CudaOps::CopyBlocks(const ExecContext& context, const KvLayer& kv,
                         const std::vector<int32_t>& from, const std::vector<int32_t>& to) {
  TESSERA_CHECK(from.size() == to.size()) << from.size() << " to " << to.size() << " blocks";
  const size_t bytes = static_cast<size_t>(KvBlockElements(kv)) * DTypeSize(kv.dtype);
  char* base = kv.storage.as<char>();
  Enter();
  for (size_t i = 0; i < from.size(); ++i) {
    TESSERA_CHECK(from[i] >= 0 && from[i] < kv.num_blocks && to[i] >= 0 && to[i] < kv.num_blocks)
        << "block " << from[i] << " to " << to[i] << " of " << kv.num_blocks;
    if (from[i] == to[i]) continue;
    Keep(cudaMemcpyAsync(base + static_cast<size_t>(to[i]) * bytes,
                         base + static_cast<size_t>(from[i]) * bytes, bytes,
                         cudaMemcpyDeviceToDevice, StreamOf(context)),
         "copy blocks");
  }
}

}  // namespace tessera::cuda
