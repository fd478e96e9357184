// A block of KV cache as the coordinator sees it (an id and who holds it), and the table that lists
// a sequence's blocks in order of position. Plain data of BlockPool and BlockManager; engine thread
// only.
//
// The prefix cache belongs here: a full block will carry the chained hash of its tokens, and a free
// one keep it until it is taken again.

#ifndef TESSERA_COORDINATOR_KV_BLOCK_H_
#define TESSERA_COORDINATOR_KV_BLOCK_H_

#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"

namespace tessera {

// Index of a block in one KvGroup's pool on every rank of a group.
using BlockId = uint32_t;

struct Block {
  uint32_t ref_count = 0;  // tables that hold it
  uint64_t last_plan =
      0;  // step id of the last plan that names it, as far as its last holders knew
};

// Blocks of one sequence in one KvGroup: ids[i] holds the positions from i * block_size on.
struct BlockTable {
  std::vector<BlockId> ids;
  int64_t reserved = 0;  // blocks promised at admission and not taken yet
};

// One table per KvGroup; almost every model has one group.
using BlockTables = absl::InlinedVector<BlockTable, 1>;

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_KV_BLOCK_H_
