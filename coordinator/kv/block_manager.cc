// Tables and promises over the pools of all KvGroups; see block_manager.h.

#include "coordinator/kv/block_manager.h"

#include "base/check.h"

namespace tessera {

BlockManager::BlockManager(int64_t block_size, absl::Span<const uint32_t> num_blocks)
    : block_size_(block_size) {
  TESSERA_CHECK(block_size > 0) << "block size " << block_size;
  pools_.reserve(num_blocks.size());
  for (uint32_t n : num_blocks) pools_.push_back(Pool{.pool = BlockPool(n)});
}

bool BlockManager::CanEverFit(int64_t tokens) const {
  for (const Pool& p : pools_) {
    if (p.pool.total() < BlocksFor(tokens)) return false;
  }
  return true;
}

bool BlockManager::CanReserve(int64_t tokens) const {
  for (int group = 0; group < num_groups(); ++group) {
    if (available(group) < BlocksFor(tokens)) return false;
  }
  return true;
}

void BlockManager::Reserve(int64_t tokens, BlockTables& tables) {
  TESSERA_CHECK(CanReserve(tokens)) << "no room for " << tokens << " tokens";
  tables.clear();
  tables.resize(pools_.size());
  for (size_t group = 0; group < pools_.size(); ++group) {
    tables[group].reserved = BlocksFor(tokens);
    tables[group].ids.reserve(static_cast<size_t>(tables[group].reserved));
    pools_[group].reserved += tables[group].reserved;
  }
}

void BlockManager::Extend(int64_t tokens, BlockTables& tables) {
  const int64_t wanted = BlocksFor(tokens);
  for (size_t group = 0; group < pools_.size(); ++group) {
    BlockTable& table = tables[group];
    while (static_cast<int64_t>(table.ids.size()) < wanted) {
      TESSERA_CHECK(table.reserved > 0) << tokens << " tokens are more than was reserved";
      --table.reserved;
      --pools_[group].reserved;
      table.ids.push_back(pools_[group].pool.Take());
    }
  }
}

void BlockManager::Release(uint64_t last_plan, BlockTables& tables) {
  for (size_t group = 0; group < tables.size(); ++group) {
    pools_[group].reserved -= tables[group].reserved;
    for (BlockId id : tables[group].ids) pools_[group].pool.Release(id, last_plan);
  }
  tables.clear();
}

void BlockManager::Retire(uint64_t plan) {
  for (Pool& p : pools_) p.pool.Retire(plan);
}

void BlockManager::CheckInvariants(absl::Span<const BlockTables* const> live) const {
  for (size_t group = 0; group < pools_.size(); ++group) {
    const Pool& p = pools_[group];
    std::vector<uint32_t> references(static_cast<size_t>(p.pool.total()), 0);
    int64_t reserved = 0;
    int64_t held = 0;
    for (const BlockTables* tables : live) {
      TESSERA_CHECK(tables->size() == pools_.size());
      const BlockTable& table = (*tables)[group];
      reserved += table.reserved;
      for (BlockId id : table.ids) {
        TESSERA_CHECK(id < references.size()) << "block " << id << " of " << p.pool.total();
        if (references[id]++ == 0) ++held;
      }
    }
    p.pool.CheckInvariants(references);
    TESSERA_CHECK(p.pool.free() + p.pool.pinned() + held == p.pool.total())
        << "free " << p.pool.free() << ", pinned " << p.pool.pinned() << ", held " << held
        << ", total " << p.pool.total();
    TESSERA_CHECK(p.reserved == reserved) << p.reserved << " promised, tables say " << reserved;
    TESSERA_CHECK(p.reserved <= p.pool.free())
        << p.reserved << " promised, " << p.pool.free() << " free";
  }
}

}  // namespace tessera
