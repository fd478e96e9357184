// Paged causal attention. The work is cut in items of up to kPairsMax (query, head) pairs that
// share a KV head; an item walks the row's cache in tiles of sixteen tokens from position 0, widens
// each tile to float32 once and gives it to all its pairs. Items go round-robin to the threads:
// later queries cost more. What a pair gets does not depend on its item, so chunking and batching
// do not show.

#include <algorithm>
#include <limits>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/kv_layout.h"

namespace tessera::cpu {
namespace {

// Multiply-adds below which the caller works alone.
constexpr int64_t kGrain = 128 << 10;

// Scratch of one item, on the thread's stack: 144 KiB.
struct Scratch {
  alignas(64) float k[kHeadSizeMax * kKvTile];
  alignas(64) float v[kKvTile * kHeadSizeMax];
  alignas(64) float q[kPairsMax * kHeadSizeMax];
  alignas(64) float out[kPairsMax * kHeadSizeMax];
  float max[kPairsMax];
  float sum[kPairsMax];
  int first[kPairsMax];
  int last[kPairsMax];
};

int64_t ValueSize(const AttentionSpec& spec) {
  return spec.value_size == 0 ? spec.head_size : spec.value_size;
}

struct Item {
  int64_t row = 0;
  int64_t token_begin = 0;  // queries, indices into T
  int64_t tokens = 0;
  int64_t kv_head = 0;
  int64_t head_begin = 0;  // query heads
  int64_t heads = 0;
  int64_t pairs() const { return tokens * heads; }
};

// The cut of a step in items.
class Items {
 public:
  Items(const StepView& step, const AttentionSpec& spec)
      : step_(step),
        spec_(spec),
        group_(spec.num_heads / spec.num_kv_heads),
        item_heads_(std::min<int64_t>(group_, kPairsMax)),
        item_tokens_(kPairsMax / item_heads_) {}

  // Calls body with items lane, lane + lanes, ...
  template <typename Body>
  void ForLane(int lane, int lanes, Body body) const {
    const int32_t* begin = step_.query_begin.as<const int32_t>();
    int64_t index = 0;
    for (int64_t row = 0; row < step_.num_rows; ++row) {
      for (int64_t token = begin[row]; token < begin[row + 1]; token += item_tokens_) {
        const int64_t tokens = std::min(item_tokens_, begin[row + 1] - token);
        for (int64_t head = 0; head < spec_.num_heads;) {
          const int64_t group_end = (head / group_ + 1) * group_;
          const int64_t heads = std::min(item_heads_, group_end - head);
          if (index++ % lanes == lane) {
            body(Item{row, token, tokens, head / group_, head, heads});
          }
          head += heads;
        }
      }
    }
  }

 private:
  const StepView& step_;
  const AttentionSpec& spec_;
  const int64_t group_;
  const int64_t item_heads_;
  const int64_t item_tokens_;
};

// Widens tokens [begin, end) of the tile that starts at position `tile` into k [D][16] and v
// [16][padded]; other lanes of k become zero, other rows of v stay as they are. Of a latent cache v
// is the first `values` elements of k, turned round.
template <typename Kv>
void LoadTile(const KvLayer& kv, const StepView& step, const Item& item, int64_t tile,
              int64_t begin, int64_t end, int64_t values, int64_t padded, Scratch& scratch) {
  const int64_t size = kv.head_size;
  const bool whole = begin == tile && end == tile + kKvTile && kv.block_size % kKvTile == 0;
  if (!whole) std::fill_n(scratch.k, size * kKvTile, 0.0f);
  for (int64_t position = begin; position < end;) {
    const int64_t block = BlockOf(kv, step, item.row, position);
    const int64_t slot = position % kv.block_size;
    const int64_t n = std::min(end - position, kv.block_size - slot);
    const Kv* key = KeyBlock<const Kv>(kv, block, item.kv_head) + slot;
    float* k = scratch.k + (position - tile);
    if (whole) {
      for (int64_t d = 0; d < size; ++d) {
        for (int t = 0; t < kKvTile; ++t) k[d * kKvTile + t] = ToFloat(key[d * kv.block_size + t]);
      }
    } else {
      for (int64_t d = 0; d < size; ++d) {
        for (int64_t t = 0; t < n; ++t) k[d * kKvTile + t] = ToFloat(key[d * kv.block_size + t]);
      }
    }
    for (int64_t t = 0; t < n && !kv.latent; ++t) {
      const Kv* value = ValueBlock<const Kv>(kv, block, item.kv_head) + (slot + t) * size;
      float* v = scratch.v + (position - tile + t) * padded;
      for (int64_t d = 0; d < size; ++d) v[d] = ToFloat(value[d]);
    }
    position += n;
  }
  if (!kv.latent) return;
  for (int64_t d = 0; d < values; ++d) {
    for (int64_t t = begin - tile; t < end - tile; ++t) {
      scratch.v[t * padded + d] = scratch.k[d * kKvTile + t];
    }
  }
}

template <typename T, typename Kv>
class Runner {
 public:
  Runner(const KernelTable& kernels, const TensorView& out, const TensorView& q, const KvLayer& kv,
         const StepView& step, const AttentionSpec& spec)
      : kernels_(kernels), out_(out), q_(q), kv_(kv), step_(step), spec_(spec) {}

  void Run(const Item& item, Scratch& scratch) const {
    const int64_t size = spec_.head_size;
    Prepare(item, scratch);
    const AttentionTile tile{.q = scratch.q,
                             .pairs = static_cast<int>(item.pairs()),
                             .first_lane = scratch.first,
                             .last_lane = scratch.last,
                             .k = scratch.k,
                             .v = scratch.v,
                             .head_size = size,
                             .padded_size = Padded(),
                             .scale = spec_.scale,
                             .softcap = spec_.softcap,
                             .max = scratch.max,
                             .sum = scratch.sum,
                             .out = scratch.out};
    int64_t begin = std::numeric_limits<int64_t>::max();  // tokens that any pair sees
    int64_t end = 0;
    for (int64_t i = 0; i < item.tokens; ++i) {
      begin = std::min(begin, Begin(item.token_begin + i));
      end = std::max(end, End(item.token_begin + i));
    }
    for (int64_t start = begin / kKvTile * kKvTile; start < end; start += kKvTile) {
      for (int64_t pair = 0; pair < item.pairs(); ++pair) {
        const int64_t token = item.token_begin + pair / item.heads;
        scratch.first[pair] = Lane(Begin(token) - start);
        scratch.last[pair] = Lane(End(token) - start);
      }
      LoadTile<Kv>(kv_, step_, item, start, std::max(start, begin), std::min(start + kKvTile, end),
                   Values(), Padded(), scratch);
      kernels_.attention(tile);
    }
    Finish(item, scratch);
  }

 private:
  static int Lane(int64_t i) { return static_cast<int>(std::clamp<int64_t>(i, 0, kKvTile)); }
  int64_t Values() const { return ValueSize(spec_); }
  int64_t Padded() const { return (Values() + 15) / 16 * 16; }
  int64_t Position(int64_t token) const { return step_.positions.as<const int32_t>()[token]; }
  // The query at `token` sees cache positions [Begin, End).
  int64_t Begin(int64_t token) const {
    return spec_.window == 0 ? 0 : std::max<int64_t>(0, Position(token) + 1 - spec_.window);
  }
  int64_t End(int64_t token) const { return Position(token) + 1; }

  void Prepare(const Item& item, Scratch& scratch) const {
    const int64_t size = spec_.head_size;
    std::fill_n(scratch.v, kKvTile * Padded(), 0.0f);
    std::fill_n(scratch.out, item.pairs() * Padded(), 0.0f);
    for (int64_t pair = 0; pair < item.pairs(); ++pair) {
      const T* q = Row<const T>(q_, item.token_begin + pair / item.heads) +
                   (item.head_begin + pair % item.heads) * size;
      for (int64_t d = 0; d < size; ++d) scratch.q[pair * size + d] = ToFloat(q[d]);
      scratch.max[pair] = -std::numeric_limits<float>::infinity();
      scratch.sum[pair] = 0.0f;
    }
  }

  void Finish(const Item& item, const Scratch& scratch) const {
    const int64_t size = Values();
    for (int64_t pair = 0; pair < item.pairs(); ++pair) {
      T* out = Row<T>(out_, item.token_begin + pair / item.heads) +
               (item.head_begin + pair % item.heads) * size;
      for (int64_t d = 0; d < size; ++d) {
        const float value = scratch.out[pair * Padded() + d] / scratch.sum[pair];
        if constexpr (std::is_same_v<T, float>) {
          out[d] = value;
        } else {
          out[d] = ToBFloat16(value);
        }
      }
    }
  }

  const KernelTable& kernels_;
  const TensorView& out_;
  const TensorView& q_;
  const KvLayer& kv_;
  const StepView& step_;
  const AttentionSpec& spec_;
};

// Multiply-adds of the step, roughly.
int64_t Work(const StepView& step, const AttentionSpec& spec) {
  const int32_t* begin = step.query_begin.as<const int32_t>();
  const int32_t* length = step.kv_length.as<const int32_t>();
  int64_t pairs = 0;
  for (int64_t row = 0; row < step.num_rows; ++row) {
    pairs += int64_t{begin[row + 1] - begin[row]} * length[row];
  }
  return pairs * spec.num_heads * (spec.head_size + ValueSize(spec));
}

}  // namespace

void CpuOps::PagedAttention(const ExecContext& context, TensorView out, TensorView q,
                            const KvLayer& kv, const StepView& step, const AttentionSpec& spec) {
  const int64_t width = spec.num_heads * spec.head_size;
  TESSERA_CHECK(out.rank == 2 && q.rank == 2 && out.dims[0] == step.num_tokens &&
                q.dims[0] == step.num_tokens && q.dims[1] == width &&
                out.dims[1] == spec.num_heads * ValueSize(spec) && out.dtype == q.dtype)
      << "out [" << out.dims[0] << ", " << out.dims[1] << "], q [" << q.dims[0] << ", " << q.dims[1]
      << "], width " << width;
  TESSERA_CHECK(spec.num_kv_heads > 0 && spec.num_heads % spec.num_kv_heads == 0 &&
                kv.num_heads == spec.num_kv_heads && kv.head_size == spec.head_size &&
                spec.head_size <= kHeadSizeMax && kv.block_size > 0)
      << spec.num_heads << " heads, " << spec.num_kv_heads << " KV heads of " << spec.head_size;
  TESSERA_CHECK(kv.latent ? ValueSize(spec) <= spec.head_size : ValueSize(spec) == spec.head_size)
      << "values of " << ValueSize(spec) << " in entries of " << spec.head_size;
  const Items items(step, spec);
  const auto run = [&](auto t, auto kv_t) {
    const Runner<decltype(t), decltype(kv_t)> runner(kernels_, out, q, kv, step, spec);
    const auto lane = [&](int index, int lanes) {
      Scratch scratch;
      items.ForLane(index, lanes, [&](const Item& item) { runner.Run(item, scratch); });
    };
    if (context.threads == nullptr || Work(step, spec) < kGrain) {
      lane(0, 1);
    } else {
      context.threads->Run(lane);
    }
  };
  WithType(q.dtype, [&](auto t) { WithType(kv.dtype, [&](auto kv_t) { run(t, kv_t); }); });
}

}  // namespace tessera::cpu
