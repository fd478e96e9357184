// What the attention kernels are told, and how keys and values lie. The cache of a layer is
// [block][KV head][keys, values][slot][D]: a block is contiguous, a token's key of one head too. A
// latent layer has keys only, the first elements of which are the value.
//
// Numerics of the tensor core kernels: a query at position p sees n = p + 1 tokens, cut into chunks
// of ChunkTokens(n) from position 0; inside a chunk an online softmax over tiles of kAttentionTile
// tokens; chunks are merged in order. So what a query gets depends on nothing but its own position
// and the cache. Only FlashPrefill, for steps that need not be deterministic, has another order.

#ifndef TESSERA_KERNELS_CUDA_ATTENTION_KERNELS_H_
#define TESSERA_KERNELS_CUDA_ATTENTION_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace tessera::cuda {

inline constexpr int kAttentionTile = 16;  // tokens
inline constexpr int kChunksMax = 64;      // of one query
inline constexpr int kChunkTokensMin = 128;
// Query heads of a KV head, times queries, that a tensor core tile holds.
inline constexpr int kPairsMax = 16;

// Tokens of a chunk for a query that sees n.
constexpr int64_t ChunkTokens(int64_t n, int64_t least) {
  int64_t tokens = least;
  while (tokens * kChunksMax < n) tokens *= 2;
  return tokens;
}

struct KvArguments {
  void* storage = nullptr;
  bool bfloat16 = true;  // else float32
  int64_t num_blocks = 0;
  int block_size = 0;
  int num_heads = 0;  // K
  int head_size = 0;  // D
  bool latent = false;
};

struct StepArguments {
  int num_rows = 0;
  int num_tokens = 0;
  const int32_t* positions = nullptr;    // [T]
  const int32_t* query_begin = nullptr;  // [R + 1]
  const int32_t* kv_length = nullptr;    // [R]
  const int32_t* block_table = nullptr;
  int64_t table_stride = 0;
  int table_blocks = 0;  // of a row
};

struct RopeArguments {
  bool bfloat16 = true;  // of qkv and the norm weights
  void* qkv = nullptr;   // [T, (H + 2K) * D]
  int64_t qkv_stride = 0;
  int num_heads = 0;  // H
  KvArguments kv;
  StepArguments step;
  const float* inv_frequency = nullptr;
  int rotary_size = 0;
  float attention_factor = 1.0f;
  bool interleaved = false;
  const void* query_norm = nullptr;
  const void* key_norm = nullptr;
  float eps = 0.0f;
  float offset = 0.0f;  // added to norm weights
};
void LaunchRope(const RopeArguments& arguments, cudaStream_t stream);

// The same for a latent layer: `qkv` is the latent [T, D] with `key_norm` over its first elements;
// the last rotary_size elements of every head of q become those of query.
struct LatentArguments {
  RopeArguments rope;
  const void* q = nullptr;  // [T, H * q_head]
  int64_t q_stride = 0;
  int q_head = 0;
  void* query = nullptr;  // [T, H * D]
  int64_t query_stride = 0;
};
void LaunchLatentRope(const LatentArguments& arguments, cudaStream_t stream);

// Largest head, and largest entry of a latent cache.
inline constexpr int kHeadElementsMax = 640;

struct AttentionArguments {
  bool bfloat16 = true;  // of out and q
  void* out = nullptr;
  int64_t out_stride = 0;
  const void* q = nullptr;
  int64_t q_stride = 0;
  int num_heads = 0;   // H
  int value_size = 0;  // D unless latent
  KvArguments kv;
  StepArguments step;
  float scale = 0.0f;
  int64_t window = 0;
  float softcap = 0.0f;
  int64_t chunk_tokens = kChunkTokensMin;  // see ChunkTokens
  float* partial = nullptr;  // [rows of a pass, H, chunks, D + 2]: sums, then maximum and weight
  int partial_chunks = 0;    // of a row in `partial`
  int row_begin = 0;         // rows of this pass
  int row_count = 0;
  bool long_rows = true;  // also rows with several queries; else FlashPrefill takes those
};

// Whether the tensor core kernels have this head size and block size.
bool TensorAttentionTakes(const AttentionArguments& arguments);
// Rows [row_begin, row_begin + row_count), then the merge of their chunks.
void LaunchTensorAttention(const AttentionArguments& arguments, int multiprocessors,
                           cudaStream_t stream);
// Rows with more than one query, tiles of 128 pairs.
void LaunchFlashPrefill(const AttentionArguments& arguments, cudaStream_t stream);
// Any head size, any dtype: a warp per query and head. For float32 and small models.
void LaunchPlainAttention(const AttentionArguments& arguments, cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_ATTENTION_KERNELS_H_
