// The blocks of one KvGroup in one epoch of a group. A block is free only when no table holds it
// and the last plan that names it has retired: until then a rank may still read or write it.
//
// Blocks are handed out in a fixed order, the longest free one first; starting with 0, 1, 2, ...
// That is also the order in which a prefix cache wants to forget. Called by BlockManager, engine
// thread only.

#ifndef TESSERA_COORDINATOR_KV_BLOCK_POOL_H_
#define TESSERA_COORDINATOR_KV_BLOCK_POOL_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/kv/block.h"

namespace tessera {

class BlockPool {
 public:
  explicit BlockPool(uint32_t num_blocks);

  int64_t total() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t free() const { return free_count_; }
  // Held by no table, but named by a plan that has not retired.
  int64_t pinned() const { return static_cast<int64_t>(pinned_.size()); }

  // The caller has made sure that one is free.
  BlockId Take();
  // One table lets go of the block; `last_plan` is the last plan in which that table named it.
  void Release(BlockId id, uint64_t last_plan);
  // Every plan up to `plan` has been answered by all ranks.
  void Retire(uint64_t plan);

  // `references[id]`: how many tables hold the block.
  void CheckInvariants(absl::Span<const uint32_t> references) const;

 private:
  void PutFree(BlockId id);

  std::vector<Block> blocks_;  // index = BlockId
  std::vector<BlockId> free_;  // ring: free_count_ ids from free_begin_ on
  size_t free_begin_ = 0;
  int64_t free_count_ = 0;
  std::vector<BlockId> pinned_;  // in order of release
  uint64_t retired_plan_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_KV_BLOCK_POOL_H_
