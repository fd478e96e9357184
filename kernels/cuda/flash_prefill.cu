// Prefill attention for steps that need not be deterministic: a block of eight warps owns 128
// (query, head) pairs of one KV head, sixteen per warp, and walks the cache in tiles of 64 tokens
// that all warps share, double-buffered. Blocks of late queries, which see most, start first.
// mma.sync; wgmma with TMA would read shared memory half as often.

#include "kernels/cuda/attention_tile.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kBlockPairs = kWarps * kPairsMax;
constexpr int kTiles = 4;                             // sixteens
constexpr int kTileTokens = kTiles * kAttentionTile;  // of shared memory
constexpr int kStages = 2;

template <int D>
constexpr int kPartBytes = kTileTokens* D * 2;  // keys or values of a tile

// A block's part of a step: queries [first_query, + queries) of a row.
struct Part {
  int row = 0;
  int first_query = 0;  // in the row
  int queries = 0;      // <= 0: nothing to do
};

// Rows have disjoint ranges of slots: row r begins at query_begin[r] / each + r.
__device__ Part PartOf(const StepArguments& step, int each, int slot) {
  int low = 0;
  int high = step.num_rows;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (step.query_begin[middle] / each + middle <= slot) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int begin = step.query_begin[low];
  const int queries = step.query_begin[low + 1] - begin;
  Part part;
  part.row = low;
  part.first_query = (slot - begin / each - low) * each;
  part.queries = queries > 1 ? min(each, queries - part.first_query) : 0;
  return part;
}

template <int D>
__device__ void CopyTile(const AttentionArguments& a, int row, int kv_head, int start, int end,
                         uint32_t to) {
  constexpr int kChunks = D / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kTileTokens * kChunks; i += kThreads) {
    const int token = i / kChunks;
    const int chunk = i % kChunks;
    const bool exists = start + token < end;
    const Bf16* key = static_cast<const Bf16*>(a.kv.storage);
    if (exists) {
      const int64_t block = BlockOf(a.kv, a.step, row, start + token);
      key = KeyAt<const Bf16>(a.kv, block, kv_head, (start + token) % a.kv.block_size) + chunk * 8;
    }
    const uint32_t place = to + PlaceOf<D>(token, chunk);
    CopyAsync16(place, key, exists);
    CopyAsync16(place + kPartBytes<D>,
                exists ? key + static_cast<int64_t>(a.kv.block_size) * D : key, exists);
  }
}

template <int D>
__global__ void __launch_bounds__(kThreads, 1) FlashKernel(AttentionArguments a, int each) {
  extern __shared__ __align__(16) uint8_t shared[];
  const Part part = PartOf(a.step, each, static_cast<int>(gridDim.x - 1 - blockIdx.x));
  if (part.queries <= 0) return;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int group = a.num_heads / a.kv.num_heads;
  const int begin = a.step.query_begin[part.row] + part.first_query;
  const int first_position = a.step.positions[begin];
  const int last_position = a.step.positions[begin + part.queries - 1];
  const int first_pair = part.first_query * group;
  const int pair_end = first_pair + part.queries * group;
  const int warp_pair = first_pair + static_cast<int>(threadIdx.x) / 32 * kPairsMax;
  const bool works = warp_pair < pair_end;
  const PairRows rows = PairsOf(a, part.row, kv_head, warp_pair, pair_end);
  uint32_t q[D / 16][4];
  LoadQueries<D>(a, rows, q);
  Softmax<D> softmax;
  softmax.Clear();
  // What this warp's queries see: [warp_first - window, warp_last].
  const int warp_first = first_position + (warp_pair - first_pair) / group;
  const int warp_last =
      first_position + (min(warp_pair + kPairsMax, pair_end) - 1 - first_pair) / group;
  const int seen = first_position + 1 - static_cast<int>(a.window);
  const int start = a.window == 0 || seen < 0 ? 0 : seen / kTileTokens * kTileTokens;
  const int end = last_position + 1;
  const int tiles = (end - start + kTileTokens - 1) / kTileTokens;
  const uint32_t ring = SharedAddress(shared);
  CopyTile<D>(a, part.row, kv_head, start, end, ring);
  CommitCopies();
  for (int i = 0; i < tiles; ++i) {
    const int at = start + i * kTileTokens;
    const uint32_t next = ring + (i + 1) % kStages * 2 * kPartBytes<D>;
    if (i + 1 < tiles) CopyTile<D>(a, part.row, kv_head, at + kTileTokens, end, next);
    CommitCopies();
    WaitForCopies<1>();
    __syncthreads();
    const uint32_t stage = ring + i % kStages * 2 * kPartBytes<D>;
    const bool nothing =
        at > warp_last || (a.window != 0 && at + kTileTokens + a.window <= warp_first + 1);
    if (works && !nothing) {
      float score[kTiles][2][4];
      Scores<D, kTiles>(q, stage, score);
      const bool whole = a.window == 0 && at + kTileTokens - 1 <= warp_first;
      MaskScores<kTiles>(a, rows, at, whole, score);
      Accumulate<D, kTiles>(score, stage + kPartBytes<D>, softmax);
    }
    // Nobody reads the stage that the next turn fills.
    __syncthreads();
  }
  WaitForCopies<0>();
  if (!works) return;
  softmax.SumLanes();
  StoreRows<D>(a, rows, softmax);
}

template <int D>
void LaunchSize(const AttentionArguments& a, cudaStream_t stream) {
  constexpr int kShared = kStages * 2 * kPartBytes<D>;
  static_assert(kShared <= 227 << 10);
  cudaFuncSetAttribute(FlashKernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  const int group = a.num_heads / a.kv.num_heads;
  const int each = group < kBlockPairs ? kBlockPairs / group : 1;
  const dim3 grid(static_cast<unsigned>(a.step.num_tokens / each + a.step.num_rows),
                  static_cast<unsigned>(a.kv.num_heads));
  FlashKernel<D><<<grid, kThreads, kShared, stream>>>(a, each);
}

}  // namespace

void LaunchFlashPrefill(const AttentionArguments& a, cudaStream_t stream) {
  if (a.step.num_tokens <= a.step.num_rows) return;
  switch (a.kv.head_size) {
    case 64:
      return LaunchSize<64>(a, stream);
    case 96:
      return LaunchSize<96>(a, stream);
    case 128:
      return LaunchSize<128>(a, stream);
    default:
      return LaunchSize<256>(a, stream);
  }
}

}  // namespace tessera::cuda
