// The KV cache of one group for one epoch: one pool per KvGroup, and the promises made at
// admission. The scheduler asks it for whole sequences, in tokens; it alone knows blocks. When the
// epoch ends it is thrown away whole. Engine thread only.
//
// Every KvGroup keeps a sequence's whole length, also one with a window. Copy-on-write belongs in
// Extend: a last block that others hold too is copied before it is written.

#ifndef TESSERA_COORDINATOR_KV_BLOCK_MANAGER_H_
#define TESSERA_COORDINATOR_KV_BLOCK_MANAGER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/kv/block.h"
#include "coordinator/kv/block_pool.h"

namespace tessera {

class BlockManager {
 public:
  // `num_blocks` per KvGroup; `block_size` in tokens.
  BlockManager(int64_t block_size, absl::Span<const uint32_t> num_blocks);

  int64_t BlocksFor(int64_t tokens) const { return (tokens + block_size_ - 1) / block_size_; }
  // Whether the tokens fit when nothing else is there.
  bool CanEverFit(int64_t tokens) const;
  bool CanReserve(int64_t tokens) const;
  // Makes empty tables and promises them the blocks of `tokens` positions in every KvGroup.
  void Reserve(int64_t tokens, BlockTables& tables);
  // Takes promised blocks until the tables hold `tokens` positions.
  void Extend(int64_t tokens, BlockTables& tables);
  // Gives everything back; `last_plan` is the last plan that names the tables, 0 for none.
  void Release(uint64_t last_plan, BlockTables& tables);
  // Every plan up to `plan` has been answered by all ranks.
  void Retire(uint64_t plan);

  int num_groups() const { return static_cast<int>(pools_.size()); }
  int64_t block_size() const { return block_size_; }
  int64_t total(int group) const { return pools_[group].pool.total(); }
  // Neither held, nor pinned, nor promised: what admission can still give.
  int64_t available(int group) const { return pools_[group].pool.free() - pools_[group].reserved; }

  // `live` are all the tables that hold blocks of this manager.
  void CheckInvariants(absl::Span<const BlockTables* const> live) const;

 private:
  struct Pool {
    BlockPool pool;
    int64_t reserved = 0;  // sum over the tables
  };

  const int64_t block_size_;
  std::vector<Pool> pools_;  // index = KvGroup
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_KV_BLOCK_MANAGER_H_
