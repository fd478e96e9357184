// A block of KV cache as the coordinator sees it (an id and who holds it), and the table that lists
// a sequence's blocks in order of position. Plain data of BlockPool and BlockManager; engine thread
// only.

#ifndef TESSERA_COORDINATOR_KV_BLOCK_H_
#define TESSERA_COORDINATOR_KV_BLOCK_H_

#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"

namespace tessera {

// Index of a block in one KvGroup's pool on every rank of a group.
using BlockId = uint32_t;

// In a table: a block behind the window of its KvGroup, which is not there any more.
inline constexpr BlockId kNullBlock = 0xffffffff;

// Blocks of one sequence in one KvGroup: ids[i] holds the positions from i * block_size on.
struct BlockTable {
  std::vector<BlockId> ids;
  int64_t num_null = 0;  // leading ids that are kNullBlock
};

// One table per KvGroup; almost every model has one group.
using BlockTables = absl::InlinedVector<BlockTable, 1>;

// Copy-on-write: the ranks copy the whole block before they compute.
struct BlockCopy {
  uint32_t kv_group = 0;
  BlockId from = 0;
  BlockId to = 0;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_KV_BLOCK_H_
