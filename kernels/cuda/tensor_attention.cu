// Paged attention whose results do not depend on batch or chunking. A warp takes one item: sixteen
// pairs of one row and KV head, and (rows with one query) one chunk of the cache; it streams tiles
// of sixteen tokens through its own ring in shared memory and waits for nobody. Items of a step are
// equal pieces, handed out over a grid that fills the GPU, so a long row does not hold up the
// others. Rows with several queries take their chunks one after the other.

#include "kernels/cuda/attention_tile.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kPassRowsMax = 1024;

template <int D>
constexpr int kTileBytes = kAttentionTile* D * 2;  // keys or values
// A multiprocessor has 227 KiB for four warps.
template <int D, bool kLong>
constexpr int kStagesOf = D > 128 && kLong ? 2 : 3;
template <int D, bool kLong>
constexpr int kWarpBytes = kStagesOf<D, kLong> * 2 * kTileBytes<D> + (kLong ? 16 * D * 4 : 0);

__device__ int64_t DeviceChunkTokens(int64_t n, int64_t least) {
  int64_t tokens = least;
  while (tokens * kChunksMax < n) tokens *= 2;
  return tokens;
}

// The chunks that a query at `position` looks at.
struct ChunkRange {
  int tokens = 0;  // of a chunk
  int first = 0;
  int last = 0;

  __device__ ChunkRange(const AttentionArguments& a, int position) {
    const int n = position + 1;
    tokens = static_cast<int>(DeviceChunkTokens(n, a.chunk_tokens));
    first = a.window == 0 || n <= a.window ? 0 : (n - static_cast<int>(a.window)) / tokens;
    last = position / tokens;
  }
  __device__ int count() const { return last - first + 1; }
};

__device__ int PairTiles(const AttentionArguments& a, int row) {
  const int queries = a.step.query_begin[row + 1] - a.step.query_begin[row];
  const int pairs = queries * (a.num_heads / a.kv.num_heads);
  return (pairs + kPairsMax - 1) / kPairsMax;
}

// Items of a row in this kernel.
template <bool kLong>
__device__ int ItemsOf(const AttentionArguments& a, int row) {
  const int queries = a.step.query_begin[row + 1] - a.step.query_begin[row];
  if (queries == 0 || (queries > 1) != kLong) return 0;
  const int tiles = PairTiles(a, row) * a.kv.num_heads;
  if (kLong) return tiles;
  return tiles * ChunkRange(a, a.step.kv_length[row] - 1).count();
}

// One warp at work on one row, KV head and tile of pairs.
template <int D, bool kLong>
class WarpItem {
 public:
  __device__ WarpItem(const AttentionArguments& a, int row, int kv_head, int tile, uint8_t* shared)
      : a_(a), row_(row), kv_head_(kv_head), shared_(shared) {
    const int queries = a.step.query_begin[row + 1] - a.step.query_begin[row];
    const int pairs = queries * (a.num_heads / a.kv.num_heads);
    const int first = tile * kPairsMax;
    const int last = min(first + kPairsMax, pairs) - 1;
    const int group = a.num_heads / a.kv.num_heads;
    const int begin = a.step.query_begin[row];
    first_position_ = a.step.positions[begin + first / group];
    last_position_ = a.step.positions[begin + last / group];
    rows_ = PairsOf(a, row, kv_head, first, pairs);
    LoadQueries<D>(a, rows_, q_);
  }

  // Rows with one query: chunk number `slot` of the range.
  __device__ void RunChunk(int slot) {
    const ChunkRange range(a_, last_position_);
    RunTokens((range.first + slot) * range.tokens, range.tokens);
    if (range.count() == 1) return StoreRows<D>(a_, rows_, softmax_);
    StorePartial(slot);
  }

  // Rows with several: all chunks in order. Queries that cut the cache differently (the length of a
  // chunk doubles now and then) take turns.
  __device__ void RunAll() {
    const int least = first_position_ + 1 - static_cast<int>(a_.window);
    const int seen = a_.window == 0 || least < 0 ? 0 : least;
    const ChunkRange first(a_, first_position_);
    const ChunkRange last(a_, last_position_);
    RunRange(seen / first.tokens, last_position_, first.tokens);
    if (last.tokens != first.tokens) RunRange(seen / last.tokens, last_position_, last.tokens);
  }

 private:
  static constexpr int kStages = kStagesOf<D, kLong>;

  // Chunks of `tokens` from number `first` on; stores the pairs that want this length.
  __device__ void RunRange(int first, int position, int tokens) {
    float* total = reinterpret_cast<float*>(shared_ + kStages * 2 * kTileBytes<D>);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float max[2] = {-INFINITY, -INFINITY};
    float sum[2] = {0.0f, 0.0f};
    for (int i = 0; i < D / 2; ++i) total[i * 32 + lane] = 0.0f;
    for (int chunk = first; chunk <= position / tokens; ++chunk) {
      RunTokens(chunk * tokens, tokens);
      float keep[2];
      float add[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) MergeFactors(max[i], softmax_.max[i], keep[i], add[i]);
#pragma unroll
      for (int i = 0; i < 2; ++i) sum[i] = sum[i] * keep[i] + softmax_.sum[i] * add[i];
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& at = total[(4 * j + i) * 32 + lane];
          at = at * keep[i / 2] + softmax_.out[j][i] * add[i / 2];
        }
      }
    }
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) softmax_.out[j][i] = total[(4 * j + i) * 32 + lane];
    }
    PairRows stored = rows_;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      softmax_.sum[i] = sum[i];
      const bool wants = stored.position[i] >= 0 &&
                         DeviceChunkTokens(stored.position[i] + 1, a_.chunk_tokens) == tokens;
      if (!wants) stored.position[i] = -1;
    }
    StoreRows<D>(a_, stored, softmax_);
  }

 public:
  // max becomes the larger one; the factors of what was and of what is added. A part that holds
  // nothing adds nothing.
  static __device__ void MergeFactors(float& max, float part, float& keep, float& add) {
    keep = 1.0f;
    add = 0.0f;
    if (part == -INFINITY) return;
    const float top = fmaxf(max, part);
    keep = Exp2(max - top);
    add = Exp2(part - top);
    max = top;
  }

 private:
  // softmax_ of tokens [begin, begin + count) as far as they are seen.
  __device__ void RunTokens(int begin, int count) {
    softmax_.Clear();
    const int end = min(begin + count, last_position_ + 1);
    int start = begin;
    if (a_.window != 0) {
      const int seen = first_position_ + 1 - static_cast<int>(a_.window);
      if (seen > start) start = seen / kAttentionTile * kAttentionTile;
    }
    const int tiles = start < end ? (end - start + kAttentionTile - 1) / kAttentionTile : 0;
    for (int i = 0; i < kStages - 1; ++i) {
      if (i < tiles) CopyTile(start + i * kAttentionTile, i);
      CommitCopies();
    }
    for (int i = 0; i < tiles; ++i) {
      WaitForCopies<kStages - 2>();
      __syncwarp();
      const int next = i + kStages - 1;
      if (next < tiles) CopyTile(start + next * kAttentionTile, next % kStages);
      CommitCopies();
      const uint32_t stage = SharedAddress(shared_) + i % kStages * 2 * kTileBytes<D>;
      const int at = start + i * kAttentionTile;
      float score[1][2][4];
      Scores<D, 1>(q_, stage, score);
      const bool whole = at + kAttentionTile - 1 <= first_position_ && a_.window == 0;
      MaskScores<1>(a_, rows_, at, whole, score);
      Accumulate<D, 1>(score, stage + kTileBytes<D>, softmax_);
    }
    WaitForCopies<0>();
    __syncwarp();
    softmax_.SumLanes();
  }

  // Queues a tile's keys and values; tokens that nobody sees become zero.
  __device__ void CopyTile(int start, int stage) {
    constexpr int kChunks = D / 8;
    const int64_t block = BlockOf(a_.kv, a_.step, row_, start);
    const Bf16* keys = KeyAt<const Bf16>(a_.kv, block, kv_head_, start % a_.kv.block_size);
    const Bf16* values = keys + static_cast<int64_t>(a_.kv.block_size) * D;
    const uint32_t to = SharedAddress(shared_) + stage * 2 * kTileBytes<D>;
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kChunks * kAttentionTile / 32; ++i) {
      const int at = lane + 32 * i;
      const int token = at / kChunks;
      const uint32_t place = PlaceOf<D>(token, at % kChunks);
      const bool exists = start + token <= last_position_;
      CopyAsync16(to + place, keys + at * 8, exists);
      CopyAsync16(to + kTileBytes<D> + place, values + at * 8, exists);
    }
  }

  __device__ void StorePartial(int slot) {
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (rows_.position[i] < 0) continue;
      float* to =
          a_.partial + ((static_cast<int64_t>(row_ - a_.row_begin) * a_.num_heads + rows_.head[i]) *
                            a_.partial_chunks +
                        slot) *
                           (D + 2);
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        *reinterpret_cast<float2*>(to + 8 * j + 2 * t) =
            make_float2(softmax_.out[j][2 * i], softmax_.out[j][2 * i + 1]);
      }
      if (t == 0) {
        to[D] = softmax_.max[i];
        to[D + 1] = softmax_.sum[i];
      }
    }
  }

  const AttentionArguments& a_;
  const int row_;
  const int kv_head_;
  uint8_t* const shared_;
  int first_position_;
  int last_position_;
  PairRows rows_;
  uint32_t q_[D / 16][4];
  Softmax<D> softmax_;
};

template <int D, bool kLong>
__global__ void __launch_bounds__(kThreads) ItemsKernel(AttentionArguments a) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ int begins[kPassRowsMax + 1];  // first item of every row of the pass
  __shared__ int warp_sums[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kEach = kPassRowsMax / kThreads;
  int mine = 0;
  for (int i = 0; i < kEach; ++i) {
    const int row = static_cast<int>(threadIdx.x) * kEach + i;
    const int items = row < a.row_count ? ItemsOf<kLong>(a, a.row_begin + row) : 0;
    begins[row] = mine;
    mine += items;
  }
  int before = mine;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, before, offset);
    if (lane >= offset) before += other;
  }
  if (lane == 31) warp_sums[warp] = before;
  __syncthreads();
  int offset = before - mine;
  for (int w = 0; w < warp; ++w) offset += warp_sums[w];
  for (int i = 0; i < kEach; ++i) begins[threadIdx.x * kEach + i] += offset;
  if (threadIdx.x == kThreads - 1) begins[kPassRowsMax] = offset + mine;
  __syncthreads();
  const int total = begins[kPassRowsMax];
  for (int item = static_cast<int>(blockIdx.x) * kWarps + warp; item < total;
       item += static_cast<int>(gridDim.x) * kWarps) {
    int low = 0;
    int high = kPassRowsMax;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (begins[middle] <= item) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const int row = a.row_begin + low;
    const int rest = item - begins[low];
    const int tiles = PairTiles(a, row);
    WarpItem<D, kLong> work(a, row, rest % a.kv.num_heads, rest / a.kv.num_heads % tiles,
                            shared + warp * kWarpBytes<D, kLong>);
    if constexpr (kLong) {
      work.RunAll();
    } else {
      work.RunChunk(rest / a.kv.num_heads / tiles);
    }
  }
}

// Chunks of the rows with one query, in order. A block per row and head, a thread per element.
template <int D>
__global__ void MergeKernel(AttentionArguments a) {
  const int row = a.row_begin + static_cast<int>(blockIdx.x);
  const int begin = a.step.query_begin[row];
  if (a.step.query_begin[row + 1] - begin != 1) return;
  const ChunkRange range(a, a.step.kv_length[row] - 1);
  if (range.count() == 1) return;
  const int head = static_cast<int>(blockIdx.y);
  const float* part = a.partial + (static_cast<int64_t>(blockIdx.x) * a.num_heads + head) *
                                      a.partial_chunks * (D + 2);
  const int d = static_cast<int>(threadIdx.x);
  float max = -INFINITY;
  float sum = 0.0f;
  float out = 0.0f;
#pragma unroll 4
  for (int c = 0; c < range.count(); ++c) {
    float keep;
    float add;
    WarpItem<D, false>::MergeFactors(max, part[c * (D + 2) + D], keep, add);
    sum = sum * keep + part[c * (D + 2) + D + 1] * add;
    out = out * keep + part[c * (D + 2) + d] * add;
  }
  static_cast<Bf16*>(a.out)[begin * a.out_stride + static_cast<int64_t>(head) * D + d] =
      Narrow<Bf16>(__fdiv_rn(out, sum));
}

template <int D, bool kLong>
void LaunchItems(const AttentionArguments& a, int multiprocessors, cudaStream_t stream) {
  constexpr int kShared = kWarps * kWarpBytes<D, kLong>;
  static_assert(kShared <= 227 << 10);
  cudaFuncSetAttribute(ItemsKernel<D, kLong>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  const int blocks_each = kShared <= 100 << 10 ? 2 : 1;  // that fit on a multiprocessor
  ItemsKernel<D, kLong><<<multiprocessors * blocks_each, kThreads, kShared, stream>>>(a);
}

template <int D>
void LaunchSize(const AttentionArguments& a, int multiprocessors, cudaStream_t stream) {
  LaunchItems<D, false>(a, multiprocessors, stream);
  const dim3 grid(static_cast<unsigned>(a.row_count), static_cast<unsigned>(a.num_heads));
  MergeKernel<D><<<grid, D, 0, stream>>>(a);
  if (a.long_rows && a.step.num_tokens > a.step.num_rows) {
    LaunchItems<D, true>(a, multiprocessors, stream);
  }
}

}  // namespace

bool TensorAttentionTakes(const AttentionArguments& a) {
  const int size = a.kv.head_size;
  return a.bfloat16 && a.kv.bfloat16 && !a.kv.latent && a.kv.block_size % kAttentionTile == 0 &&
         (size == 64 || size == 96 || size == 128 || size == 256) &&
         reinterpret_cast<uintptr_t>(a.q) % 4 == 0 && a.q_stride % 2 == 0 &&
         reinterpret_cast<uintptr_t>(a.out) % 4 == 0 && a.out_stride % 2 == 0;
}

void LaunchTensorAttention(const AttentionArguments& a, int multiprocessors, cudaStream_t stream) {
  if (a.row_count == 0 || a.step.num_tokens == 0) return;
  switch (a.kv.head_size) {
    case 64:
      return LaunchSize<64>(a, multiprocessors, stream);
    case 96:
      return LaunchSize<96>(a, multiprocessors, stream);
    case 128:
      return LaunchSize<128>(a, multiprocessors, stream);
    default:
      return LaunchSize<256>(a, multiprocessors, stream);
  }
}

}  // namespace tessera::cuda
