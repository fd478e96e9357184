// Free list, reference counts and pins of one KvGroup's blocks; see block_pool.h. Every operation
// is O(1) except Retire, which looks at the pinned blocks.

#include "coordinator/kv/block_pool.h"

#include <algorithm>

#include "base/check.h"

namespace tessera {

BlockPool::BlockPool(uint32_t num_blocks) : blocks_(num_blocks), free_(num_blocks) {
  for (BlockId id = 0; id < num_blocks; ++id) PutFree(id);
}

void BlockPool::PutFree(BlockId id) {
  size_t end = free_begin_ + static_cast<size_t>(free_count_);
  if (end >= free_.size()) end -= free_.size();
  free_[end] = id;
  ++free_count_;
}

BlockId BlockPool::Take() {
  TESSERA_CHECK(free_count_ > 0) << "no free block among " << total();
  const BlockId id = free_[free_begin_];
  free_begin_ = free_begin_ + 1 == free_.size() ? 0 : free_begin_ + 1;
  --free_count_;
  blocks_[id] = Block{.ref_count = 1, .last_plan = 0};
  return id;
}

void BlockPool::Release(BlockId id, uint64_t last_plan) {
  TESSERA_CHECK(id < blocks_.size()) << "block " << id << " of " << total();
  Block& block = blocks_[id];
  TESSERA_CHECK(block.ref_count > 0) << "block " << id << " is held by nobody";
  block.last_plan = std::max(block.last_plan, last_plan);
  if (--block.ref_count > 0) return;
  if (block.last_plan > retired_plan_) {
    pinned_.push_back(id);
  } else {
    PutFree(id);
  }
}

void BlockPool::Retire(uint64_t plan) {
  TESSERA_CHECK(plan >= retired_plan_) << "plan " << plan << " after " << retired_plan_;
  retired_plan_ = plan;
  size_t kept = 0;
  for (BlockId id : pinned_) {
    if (blocks_[id].last_plan > plan) {
      pinned_[kept++] = id;
    } else {
      PutFree(id);
    }
  }
  pinned_.resize(kept);
}

void BlockPool::CheckInvariants(absl::Span<const uint32_t> references) const {
  TESSERA_CHECK(references.size() == blocks_.size());
  std::vector<bool> unheld(blocks_.size(), false);  // free or pinned
  const auto note_unheld = [&](BlockId id) {
    TESSERA_CHECK(!unheld[id]) << "block " << id << " is twice among free and pinned ones";
    unheld[id] = true;
  };
  for (int64_t i = 0; i < free_count_; ++i) {
    const BlockId id = free_[(free_begin_ + static_cast<size_t>(i)) % free_.size()];
    note_unheld(id);
    TESSERA_CHECK(blocks_[id].last_plan <= retired_plan_)
        << "free block " << id << " is named by plan " << blocks_[id].last_plan
        << ", retired up to " << retired_plan_;
  }
  for (BlockId id : pinned_) note_unheld(id);
  for (BlockId id = 0; id < blocks_.size(); ++id) {
    TESSERA_CHECK(blocks_[id].ref_count == references[id])
        << "block " << id << " counts " << blocks_[id].ref_count << " tables, " << references[id]
        << " hold it";
    TESSERA_CHECK(unheld[id] == (references[id] == 0))
        << "block " << id << " is lost or free in use";
  }
}

}  // namespace tessera
