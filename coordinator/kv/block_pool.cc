// Free ring, cached list, reference counts and pins of one KvGroup's blocks; see block_pool.h.

#include "coordinator/kv/block_pool.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tessera {

BlockPool::BlockPool(uint32_t num_blocks, int64_t block_size)
    : block_size_(block_size),
      blocks_(num_blocks),
      tokens_(num_blocks * static_cast<size_t>(block_size)),
      empty_(num_blocks) {
  for (BlockId id = 0; id < num_blocks; ++id) PutFree(id);
}

absl::Span<const int32_t> BlockPool::TokensOf(BlockId id) const {
  return absl::MakeConstSpan(tokens_).subspan(id * static_cast<size_t>(block_size_),
                                              static_cast<size_t>(block_size_));
}

void BlockPool::PutFree(BlockId id) {
  if (blocks_[id].has_content) return PutCached(id);
  size_t end = empty_begin_ + static_cast<size_t>(empty_count_);
  if (end >= empty_.size()) end -= empty_.size();
  empty_[end] = id;
  ++empty_count_;
}

void BlockPool::PutCached(BlockId id) {
  Block& block = blocks_[id];
  block.before = cached_.last;
  block.after = kNullBlock;
  (cached_.last == kNullBlock ? cached_.first : blocks_[cached_.last].after) = id;
  cached_.last = id;
  ++cached_.count;
}

void BlockPool::RemoveCached(BlockId id) {
  const Block& block = blocks_[id];
  (block.before == kNullBlock ? cached_.first : blocks_[block.before].after) = block.after;
  (block.after == kNullBlock ? cached_.last : blocks_[block.after].before) = block.before;
  --cached_.count;
}

void BlockPool::Forget(BlockId id) {
  Block& block = blocks_[id];
  TESSERA_CHECK(by_hash_.erase(block.hash) == 1) << "block " << id << " is not listed";
  block.has_content = false;
}

BlockId BlockPool::TakeEmpty() {
  const BlockId id = empty_[empty_begin_];
  empty_begin_ = empty_begin_ + 1 == empty_.size() ? 0 : empty_begin_ + 1;
  --empty_count_;
  return id;
}

BlockId BlockPool::Take() {
  TESSERA_CHECK(free() > 0) << "no free block among " << total();
  BlockId id;
  if (empty_count_ > 0) {
    id = TakeEmpty();
  } else {
    id = cached_.first;
    RemoveCached(id);
    Forget(id);
  }
  blocks_[id].ref_count = 1;
  blocks_[id].last_plan = 0;
  return id;
}

void BlockPool::Hold(BlockId id) {
  TESSERA_CHECK(id < blocks_.size()) << "block " << id << " of " << total();
  Block& block = blocks_[id];
  if (block.ref_count++ > 0) return;
  TESSERA_CHECK(block.has_content) << "block " << id << " is held by nobody and empty";
  if (block.pinned) {
    --pinned_count_;  // Retire finds it held and drops the pin
  } else {
    RemoveCached(id);
  }
}

void BlockPool::Release(BlockId id, uint64_t last_plan) {
  TESSERA_CHECK(id < blocks_.size()) << "block " << id << " of " << total();
  Block& block = blocks_[id];
  TESSERA_CHECK(block.ref_count > 0) << "block " << id << " is held by nobody";
  block.last_plan = std::max(block.last_plan, last_plan);
  if (--block.ref_count > 0) return;
  if (block.pinned) {
    ++pinned_count_;
  } else if (block.last_plan > retired_plan_) {
    block.pinned = true;
    pinned_.push_back(id);
    ++pinned_count_;
  } else {
    PutFree(id);
  }
}

void BlockPool::Retire(uint64_t plan) {
  TESSERA_CHECK(plan >= retired_plan_) << "plan " << plan << " after " << retired_plan_;
  retired_plan_ = plan;
  size_t kept = 0;
  for (BlockId id : pinned_) {
    Block& block = blocks_[id];
    if (block.ref_count == 0 && block.last_plan > plan) {
      pinned_[kept++] = id;
      continue;
    }
    block.pinned = false;
    if (block.ref_count > 0) continue;
    --pinned_count_;
    PutFree(id);
  }
  pinned_.resize(kept);
}

void BlockPool::SetContent(BlockId id, const BlockHash& hash, const BlockHash& parent,
                           absl::Span<const int32_t> tokens) {
  TESSERA_CHECK(static_cast<int64_t>(tokens.size()) == block_size_);
  Block& block = blocks_[id];
  TESSERA_CHECK(block.ref_count > 0) << "block " << id << " is held by nobody";
  if (block.has_content || !by_hash_.try_emplace(hash, id).second) return;
  block.has_content = true;
  block.hash = hash;
  block.parent = parent;
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + id * block_size_);
}

BlockId BlockPool::Find(const BlockHash& hash, const BlockHash& parent,
                        absl::Span<const int32_t> tokens) const {
  const auto found = by_hash_.find(hash);
  if (found == by_hash_.end()) return kNullBlock;
  const BlockId id = found->second;
  return blocks_[id].parent == parent && TokensOf(id) == tokens ? id : kNullBlock;
}

absl::Status BlockPool::Validate(absl::Span<const uint32_t> references) const {
  if (references.size() != blocks_.size()) return absl::InternalError("references of another pool");
  std::vector<bool> unheld(blocks_.size(), false);  // empty, cached or pinned
  const auto broken = [](BlockId id, const auto&... what) {
    return absl::InternalError(absl::StrCat("block ", id, " ", what...));
  };
  for (int64_t i = 0; i < empty_count_; ++i) {
    const BlockId id = empty_[(empty_begin_ + static_cast<size_t>(i)) % empty_.size()];
    if (unheld[id]) return broken(id, "is twice among the free ones");
    unheld[id] = true;
    if (blocks_[id].has_content) return broken(id, "has content and is listed as empty");
  }
  int64_t cached = 0;
  for (BlockId id = cached_.first; id != kNullBlock; id = blocks_[id].after, ++cached) {
    if (unheld[id]) return broken(id, "is twice among the free ones");
    unheld[id] = true;
    if (!blocks_[id].has_content) return broken(id, "is cached without content");
  }
  if (cached != cached_.count) return absl::InternalError("the list of cached blocks is broken");
  int64_t pinned = 0;
  for (BlockId id : pinned_) {
    if (!blocks_[id].pinned) return broken(id, "is listed as pinned and is not");
    if (blocks_[id].ref_count > 0) continue;
    if (unheld[id]) return broken(id, "is free and pinned");
    unheld[id] = true;
    ++pinned;
  }
  if (pinned != pinned_count_) return absl::InternalError("pinned blocks are miscounted");
  size_t with_content = 0;
  for (BlockId id = 0; id < blocks_.size(); ++id) {
    const Block& block = blocks_[id];
    if (block.ref_count != references[id]) {
      return broken(id, "counts ", block.ref_count, " tables, ", references[id], " hold it");
    }
    if (unheld[id] != (references[id] == 0)) return broken(id, "is lost, or free in use");
    if (unheld[id] && !block.pinned && block.last_plan > retired_plan_) {
      return broken(id, "is free and named by plan ", block.last_plan, ", retired up to ",
                    retired_plan_);
    }
    if (!block.has_content) continue;
    ++with_content;
    const auto found = by_hash_.find(block.hash);
    if (found == by_hash_.end() || found->second != id) return broken(id, "is not found by hash");
  }
  if (with_content != by_hash_.size()) return absl::InternalError("hashes without a block");
  return absl::OkStatus();
}

}  // namespace tessera
