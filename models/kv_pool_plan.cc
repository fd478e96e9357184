// See kv_pool_plan.h.

#include "models/kv_pool_plan.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace tessera {
namespace {

constexpr int64_t kBlocksMax = std::numeric_limits<int32_t>::max();  // block ids are int32

int64_t BlocksOf(int64_t tokens, int64_t block_size) {
  return (tokens + block_size - 1) / block_size;
}

// A window's borders cut a block at either end, so it lies in one block more than its size asks.
int64_t BlocksAtRest(const KvGroup& group, const MemoryRequest& request, int64_t tokens) {
  if (group.window > 0) tokens = std::min(tokens, group.window + request.block_size);
  return BlocksOf(tokens, request.block_size);
}

// Two chunks: one in flight, one queued behind it.
int64_t BlocksAtMost(const KvGroup& group, const MemoryRequest& request, int64_t tokens) {
  if (group.window > 0) {
    tokens = std::min(tokens, group.window + 2 * request.chunk_max + 2 * request.block_size);
  }
  return BlocksOf(tokens, request.block_size);
}

struct Share {
  int64_t least = 0;   // blocks
  int64_t weight = 0;  // blocks; what it gets is in proportion to it
  double bytes = 0.0;  // of a block
};

class Splitter {
 public:
  explicit Splitter(std::vector<Share> shares) : shares_(std::move(shares)) {
    for (const Share& share : shares_) heaviest_ = std::max(heaviest_, share.weight);
  }

  // When a group of the heaviest weight has `lead` blocks.
  int64_t Blocks(size_t group, int64_t lead) const {
    const Share& share = shares_[group];
    const int64_t blocks = (lead * share.weight + heaviest_ - 1) / heaviest_;
    return std::min(kBlocksMax, std::max(share.least, blocks));
  }
  // Doubles count bytes exactly up to 2^53 and cannot overflow.
  double Bytes(int64_t lead) const {
    double bytes = 0.0;
    for (size_t group = 0; group < shares_.size(); ++group) {
      bytes += static_cast<double>(Blocks(group, lead)) * shares_[group].bytes;
    }
    return bytes;
  }
  // The largest lead that the pool holds; 0 if it holds none.
  int64_t Lead(double pool_bytes) const {
    int64_t fits = 0;
    for (int64_t fails = kBlocksMax + 1; fails - fits > 1;) {
      const int64_t middle = fits + (fails - fits) / 2;
      (Bytes(middle) <= pool_bytes ? fits : fails) = middle;
    }
    return fits;
  }

 private:
  const std::vector<Share> shares_;
  int64_t heaviest_ = 1;
};

// Tokens of sequences of context_max that a group's blocks serve: the last of them is still
// computing its prompt.
int64_t TokensServed(const KvGroup& group, const MemoryRequest& request, int64_t context_max,
                     int64_t blocks) {
  if (group.window == 0) return blocks * request.block_size;
  const double most = static_cast<double>(BlocksAtMost(group, request, context_max));
  const double rest = static_cast<double>(BlocksAtRest(group, request, context_max));
  const double have = static_cast<double>(blocks);
  const double sequences = have < most ? have / most : 1.0 + (have - most) / rest;
  return static_cast<int64_t>(sequences * static_cast<double>(context_max));
}

}  // namespace

uint64_t KvBytesPerToken(const KvGroup& group, const MemoryRequest& request) {
  const int64_t kv_heads = std::max<int64_t>(1, group.num_kv_heads / request.tp);
  // A latent entry is key and value at once.
  const int64_t parts = group.kind == KvGroup::Kind::kLatent ? 1 : 2;
  return group.layers.size() * parts * kv_heads * group.head_size * DTypeSize(request.kv_dtype);
}

uint64_t KvBytesAtRest(const ModelSpec& spec, const MemoryRequest& request, int64_t tokens) {
  uint64_t bytes = 0;
  for (const KvGroup& group : spec.kv_groups) {
    bytes +=
        BlocksAtRest(group, request, tokens) * request.block_size * KvBytesPerToken(group, request);
  }
  return bytes;
}

uint64_t KvBytesAtMost(const ModelSpec& spec, const MemoryRequest& request, int64_t tokens) {
  uint64_t bytes = 0;
  for (const KvGroup& group : spec.kv_groups) {
    bytes +=
        BlocksAtMost(group, request, tokens) * request.block_size * KvBytesPerToken(group, request);
  }
  return bytes;
}

KvPoolPlan SplitKvPool(const ModelSpec& spec, const MemoryRequest& request, int64_t context_max,
                       uint64_t pool_bytes) {
  const bool one_fits = KvBytesAtMost(spec, request, context_max) <= pool_bytes;
  std::vector<Share> shares;
  for (const KvGroup& group : spec.kv_groups) {
    const int64_t least = BlocksAtMost(group, request, context_max);
    const int64_t typical = BlocksAtRest(group, request, std::min(context_max, kTypicalTokens));
    shares.push_back({.least = one_fits ? least : 0,
                      .weight = one_fits ? typical : least,
                      .bytes = static_cast<double>(KvBytesPerToken(group, request)) *
                               static_cast<double>(request.block_size)});
  }
  const Splitter splitter(std::move(shares));
  const int64_t lead = splitter.Lead(static_cast<double>(pool_bytes));
  KvPoolPlan plan;
  plan.tokens = std::numeric_limits<int64_t>::max();
  for (size_t index = 0; index < spec.kv_groups.size(); ++index) {
    const KvGroup& group = spec.kv_groups[index];
    const int64_t blocks = splitter.Blocks(index, lead);
    plan.num_blocks.push_back(static_cast<uint32_t>(blocks));
    plan.bytes +=
        static_cast<uint64_t>(blocks * request.block_size) * KvBytesPerToken(group, request);
    plan.tokens = std::min(plan.tokens, TokensServed(group, request, context_max, blocks));
  }
  return plan;
}

}  // namespace tessera
