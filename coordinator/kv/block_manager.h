// The KV cache of one group for one epoch: one pool per KvGroup. The scheduler asks it for whole
// sequences, in tokens; it alone knows blocks. When the epoch ends it is thrown away whole. Engine
// thread only.
//
// A KvGroup with a window keeps only what its window still sees: blocks wholly behind it are given
// back and their place in the table is kNullBlock. A prefix hit is the longest run of whole blocks
// that every KvGroup can serve: all of them in a full group, those inside the window in the others.

#ifndef TESSERA_COORDINATOR_KV_BLOCK_MANAGER_H_
#define TESSERA_COORDINATOR_KV_BLOCK_MANAGER_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "coordinator/kv/block.h"
#include "coordinator/kv/block_pool.h"
#include "coordinator/kv/prefix_hash.h"

namespace tessera {

// One KvGroup's pool.
struct PoolSpec {
  uint32_t num_blocks = 0;
  int64_t window = 0;     // tokens that a query sees, itself included; 0: all
  int64_t chunk_max = 0;  // tokens of one row, with a window
};

// The chain of a sequence's whole blocks: hash i names block i, hash i - 1 (or the root) is its
// parent. tokens: at least hashes.size() * block_size.
struct PrefixChain {
  BlockHash root;
  absl::Span<const BlockHash> hashes;
  absl::Span<const int32_t> tokens;

  const BlockHash& parent(size_t block) const { return block == 0 ? root : hashes[block - 1]; }
};

class BlockManager {
 public:
  BlockManager(int64_t block_size, absl::Span<const PoolSpec> pools);  // size in tokens

  int64_t BlocksFor(int64_t tokens) const { return (tokens + block_size_ - 1) / block_size_; }
  // Whether a sequence of so many tokens fits when nothing else is there.
  bool CanEverFit(int64_t tokens) const;
  // Blocks in the KvGroup that has fewest, as tokens: free ones, those that become free when the
  // plans in flight have retired.
  int64_t FreeTokens() const;
  int64_t PinnedTokens() const;

  // How much a sequence takes up is measured in the KvGroups that keep most of it: the full ones,
  // or those with the widest window. What such a measure leaves out is small beside it.
  // Of `tokens` tokens of a sequence, those that stay.
  int64_t KeptTokens(int64_t tokens) const { return std::min(tokens, kept_max_); }
  // All blocks there are, as tokens.
  int64_t TotalTokens() const;
  // Those that are free or become so when the plans in flight have retired.
  int64_t RoomTokens() const;
  // Tokens in blocks of the tables that no other table holds: what giving them back makes free.
  int64_t PrivateTokens(const BlockTables& tables) const;

  // The same of one KvGroup.
  int64_t KeptTokens(int group, int64_t tokens) const {
    return std::min(tokens, pools_[static_cast<size_t>(group)].kept_max);
  }

  struct PrefixHit {
    int64_t blocks = 0;  // whole blocks at the beginning of the chain that every KvGroup has
    int64_t held = 0;    // of these: in use, so that holding them once more costs nothing
  };
  PrefixHit FindPrefix(const PrefixChain& chain) const;
  // Makes tables that begin with those blocks; `blocks` is at most what FindPrefix says.
  void Open(const PrefixChain& chain, int64_t blocks, BlockTables& tables);
  // Makes the positions [begin, end) writable: takes blocks until the tables hold `end` positions
  // and replaces a block at `begin` that others hold too (appended to `copies`). False, and nothing
  // has changed, when there are too few free blocks.
  bool Extend(int64_t begin, int64_t end, uint64_t last_plan, BlockTables& tables,
              std::vector<BlockCopy>& copies);
  // Gives back the blocks that no query from `position` on can see. No plan that has not retired
  // has an earlier one.
  void DropBehindWindow(int64_t position, BlockTables& tables);
  // Another sequence begins with the same tokens on the same blocks.
  void Share(const BlockTables& from, BlockTables& to);
  // The blocks [begin, end) of the chain have been computed.
  void SetContent(const PrefixChain& chain, int64_t begin, int64_t end, const BlockTables& tables);
  // Gives everything back; `last_plan` is the last plan that names the tables, 0 for none.
  void Release(uint64_t last_plan, BlockTables& tables);
  // Every plan up to `plan` has been answered by all ranks.
  void Retire(uint64_t plan);

  int num_groups() const { return static_cast<int>(pools_.size()); }
  int64_t block_size() const { return block_size_; }
  int64_t total(int group) const { return pools_[group].pool.total(); }
  int64_t free(int group) const { return pools_[group].pool.free(); }
  int64_t cached(int group) const { return pools_[group].pool.cached(); }

  // The first broken invariant. `live` are all the tables that hold blocks of this manager.
  absl::Status Validate(absl::Span<const BlockTables* const> live) const;

 private:
  struct Pool {
    int64_t window;
    int64_t chunk_max;
    int64_t kept_max;  // tokens that stay of a long sequence
    BlockPool pool;
  };
  // The least count(KvGroup) in blocks, as tokens; of those that keep at least so many tokens.
  template <typename Count>
  int64_t Fewest(int64_t kept_min, Count count) const;
  BlockId Find(const Pool& pool, const PrefixChain& chain, int64_t block) const;
  // The first block that a query at `position` or later can see in that KvGroup.
  int64_t FirstVisible(const Pool& pool, int64_t position) const;

  const int64_t block_size_;
  std::vector<Pool> pools_;  // index = KvGroup
  int64_t kept_max_ = 0;     // of the KvGroups that keep most
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_KV_BLOCK_MANAGER_H_
