// The blocks of one KvGroup in one epoch of a group: who holds them, which are free, and what the
// free and held ones contain.
//
// A block that no table holds is pinned while a plan that names it has not retired (a rank may
// still read or write it), then free. A free block with known content is cached: it is found by its
// hash and can be held again, until it is the longest unused one and a block is needed. Blocks
// without content are handed out first, the longest free one first, starting with 0, 1, 2, ...
//
// Called by BlockManager, engine thread only. Everything is O(1) except Retire, which looks at the
// pinned blocks.

#ifndef TESSERA_COORDINATOR_KV_BLOCK_POOL_H_
#define TESSERA_COORDINATOR_KV_BLOCK_POOL_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "coordinator/kv/block.h"
#include "coordinator/kv/prefix_hash.h"

namespace tessera {

class BlockPool {
 public:
  BlockPool(uint32_t num_blocks, int64_t block_size);

  int64_t total() const { return static_cast<int64_t>(blocks_.size()); }
  // What Take can give, cached blocks included.
  int64_t free() const { return empty_count_ + cached_.count; }
  int64_t cached() const { return cached_.count; }
  // Held by no table, but named by a plan that has not retired.
  int64_t pinned() const { return pinned_count_; }
  uint32_t references(BlockId id) const { return blocks_[id].ref_count; }

  // An empty block for one table. The caller has made sure that one is free.
  BlockId Take();
  // One more table holds the block, which is held already or has content.
  void Hold(BlockId id);
  // One table lets go of the block; `last_plan` is the last plan in which that table named it.
  // Later releases are forgotten later, so a table gives back its last block first.
  void Release(BlockId id, uint64_t last_plan);
  // Every plan up to `plan` has been answered by all ranks.
  void Retire(uint64_t plan);

  // A held block has been computed to its end. No effect when another block has that content.
  void SetContent(BlockId id, const BlockHash& hash, const BlockHash& parent,
                  absl::Span<const int32_t> tokens);
  // The block with exactly this content, or kNullBlock.
  BlockId Find(const BlockHash& hash, const BlockHash& parent,
               absl::Span<const int32_t> tokens) const;

  // The first broken invariant. `references[id]`: how many tables hold the block.
  absl::Status Validate(absl::Span<const uint32_t> references) const;

 private:
  struct Block {
    uint32_t ref_count = 0;  // tables that hold it
    bool pinned = false;     // in pinned_
    bool has_content = false;
    BlockId before = kNullBlock;  // neighbours in cached_
    BlockId after = kNullBlock;
    uint64_t last_plan = 0;  // last plan that names it, as far as its last holders knew
    BlockHash hash;          // with has_content
    BlockHash parent;
  };
  // Free blocks with content, the longest unused first.
  struct CachedList {
    BlockId first = kNullBlock;
    BlockId last = kNullBlock;
    int64_t count = 0;
  };

  void PutFree(BlockId id);
  void PutCached(BlockId id);
  void RemoveCached(BlockId id);
  BlockId TakeEmpty();
  void Forget(BlockId id);  // its content
  absl::Span<const int32_t> TokensOf(BlockId id) const;

  const int64_t block_size_;
  std::vector<Block> blocks_;    // index = BlockId
  std::vector<int32_t> tokens_;  // [block][block_size], of blocks with content
  std::vector<BlockId> empty_;   // ring: empty_count_ ids from empty_begin_ on
  size_t empty_begin_ = 0;
  int64_t empty_count_ = 0;
  CachedList cached_;
  absl::flat_hash_map<BlockHash, BlockId> by_hash_;  // looked up, never walked
  std::vector<BlockId> pinned_;                      // in order of release; some may be held again
  int64_t pinned_count_ = 0;                         // of them, held by nobody
  uint64_t retired_plan_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_KV_BLOCK_POOL_H_
