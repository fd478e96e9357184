// Tables over the pools of all KvGroups; see block_manager.h.

#include "coordinator/kv/block_manager.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace tessera {

BlockManager::BlockManager(int64_t block_size, absl::Span<const PoolSpec> pools)
    : block_size_(block_size) {
  TESSERA_CHECK(block_size > 0) << "block size " << block_size;
  pools_.reserve(pools.size());
  for (const PoolSpec& spec : pools) {
    // A window's borders cut a block at either end.
    const int64_t kept_max =
        spec.window == 0 ? std::numeric_limits<int64_t>::max() : spec.window + block_size;
    pools_.push_back(
        Pool{spec.window, spec.chunk_max, kept_max, BlockPool(spec.num_blocks, block_size)});
    kept_max_ = std::max(kept_max_, kept_max);
  }
}

int64_t BlockManager::FirstVisible(const Pool& pool, int64_t position) const {
  // The query at `position` sees the keys at positions > position - window.
  if (pool.window == 0 || position < pool.window) return 0;
  return (position - pool.window + 1) / block_size_;
}

bool BlockManager::CanEverFit(int64_t tokens) const {
  return std::all_of(pools_.begin(), pools_.end(), [&](const Pool& p) {
    // Behind a window blocks go, but two rows' own tokens (one in flight, one queued) and a block
    // cut at either end stay.
    const int64_t kept =
        p.window == 0 ? tokens : std::min(tokens, p.window + 2 * p.chunk_max + 2 * block_size_);
    return p.pool.total() >= BlocksFor(kept);
  });
}

template <typename Count>
int64_t BlockManager::Fewest(int64_t kept_min, Count count) const {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (size_t group = 0; group < pools_.size(); ++group) {
    if (pools_[group].kept_max >= kept_min) least = std::min(least, count(group));
  }
  return least * block_size_;
}

int64_t BlockManager::FreeTokens() const {
  return Fewest(0, [&](size_t group) { return pools_[group].pool.free(); });
}

int64_t BlockManager::PinnedTokens() const {
  return Fewest(0, [&](size_t group) { return pools_[group].pool.pinned(); });
}

int64_t BlockManager::TotalTokens() const {
  return Fewest(kept_max_, [&](size_t group) { return pools_[group].pool.total(); });
}

int64_t BlockManager::RoomTokens() const {
  return Fewest(kept_max_, [&](size_t group) {
    return pools_[group].pool.free() + pools_[group].pool.pinned();
  });
}

BlockId BlockManager::Find(const Pool& pool, const PrefixChain& chain, int64_t block) const {
  const size_t i = static_cast<size_t>(block);
  const size_t size = static_cast<size_t>(block_size_);
  return pool.pool.Find(chain.hashes[i], chain.parent(i), chain.tokens.subspan(i * size, size));
}

BlockManager::PrefixHit BlockManager::FindPrefix(const PrefixChain& chain) const {
  PrefixHit hit{.blocks = static_cast<int64_t>(chain.hashes.size())};
  for (const Pool& p : pools_) {
    if (p.window > 0) continue;
    int64_t blocks = 0;
    hit.held = 0;
    for (; blocks < hit.blocks; ++blocks) {
      const BlockId id = Find(p, chain, blocks);
      if (id == kNullBlock) break;
      if (p.pool.references(id) > 0) ++hit.held;
    }
    hit.blocks = blocks;
  }
  // Shorten until every window is covered; what one group takes away the others look at again.
  for (size_t good = 0, next = 0; good < pools_.size() && hit.blocks > 0; ++next) {
    const Pool& p = pools_[next % pools_.size()];
    const int64_t before = hit.blocks;
    int64_t block = hit.blocks - 1;
    while (p.window > 0 && hit.blocks > 0 && block >= FirstVisible(p, hit.blocks * block_size_)) {
      if (Find(p, chain, block) == kNullBlock) hit.blocks = block;
      --block;
    }
    good = hit.blocks == before ? good + 1 : 1;
  }
  hit.held = std::min(hit.held, hit.blocks);
  return hit;
}

void BlockManager::Open(const PrefixChain& chain, int64_t blocks, BlockTables& tables) {
  tables.clear();
  tables.resize(pools_.size());
  for (size_t group = 0; group < pools_.size(); ++group) {
    Pool& p = pools_[group];
    BlockTable& table = tables[group];
    table.num_null = std::min(FirstVisible(p, blocks * block_size_), blocks);
    table.ids.assign(static_cast<size_t>(table.num_null), kNullBlock);
    for (int64_t block = table.num_null; block < blocks; ++block) {
      const BlockId id = Find(p, chain, block);
      TESSERA_CHECK(id != kNullBlock) << "block " << block << " of a prefix hit is gone";
      p.pool.Hold(id);
      table.ids.push_back(id);
    }
  }
}

bool BlockManager::Extend(int64_t begin, int64_t end, uint64_t last_plan, BlockTables& tables,
                          std::vector<BlockCopy>& copies) {
  const size_t first = static_cast<size_t>(begin / block_size_);
  const size_t wanted = static_cast<size_t>(BlocksFor(end));
  const auto is_shared = [&](const Pool& p, const BlockTable& table) {
    return first < table.ids.size() && p.pool.references(table.ids[first]) > 1;
  };
  for (size_t group = 0; group < pools_.size(); ++group) {
    const BlockTable& table = tables[group];
    const size_t added = wanted - std::min(wanted, table.ids.size());
    const size_t needed = added + (is_shared(pools_[group], table) ? 1 : 0);
    if (pools_[group].pool.free() < static_cast<int64_t>(needed)) return false;
  }
  for (size_t group = 0; group < pools_.size(); ++group) {
    BlockPool& pool = pools_[group].pool;
    BlockTable& table = tables[group];
    if (is_shared(pools_[group], table)) {
      const BlockId from = table.ids[first];
      table.ids[first] = pool.Take();
      copies.push_back({static_cast<uint32_t>(group), from, table.ids[first]});
      // The plan that is being made reads it once more.
      pool.Release(from, last_plan);
    }
    while (table.ids.size() < wanted) table.ids.push_back(pool.Take());
  }
  return true;
}

void BlockManager::DropBehindWindow(int64_t position, BlockTables& tables) {
  for (size_t group = 0; group < pools_.size(); ++group) {
    Pool& p = pools_[group];
    if (p.window == 0) continue;
    BlockTable& table = tables[group];
    const int64_t first =
        std::min(FirstVisible(p, position), static_cast<int64_t>(table.ids.size()));
    for (; table.num_null < first; ++table.num_null) {
      BlockId& id = table.ids[static_cast<size_t>(table.num_null)];
      p.pool.Release(id, /*last_plan=*/0);
      id = kNullBlock;
    }
  }
}

void BlockManager::Share(const BlockTables& from, BlockTables& to) {
  TESSERA_CHECK(to.empty());
  to = from;
  for (size_t group = 0; group < pools_.size(); ++group) {
    const BlockTable& table = to[group];
    for (size_t i = static_cast<size_t>(table.num_null); i < table.ids.size(); ++i) {
      pools_[group].pool.Hold(table.ids[i]);
    }
  }
}

void BlockManager::SetContent(const PrefixChain& chain, int64_t begin, int64_t end,
                              const BlockTables& tables) {
  for (size_t group = 0; group < pools_.size(); ++group) {
    const BlockTable& table = tables[group];
    for (int64_t block = std::max(begin, table.num_null); block < end; ++block) {
      const size_t i = static_cast<size_t>(block);
      pools_[group].pool.SetContent(
          table.ids[i], chain.hashes[i], chain.parent(i),
          chain.tokens.subspan(i * block_size_, static_cast<size_t>(block_size_)));
    }
  }
}

void BlockManager::Release(uint64_t last_plan, BlockTables& tables) {
  for (size_t group = 0; group < tables.size(); ++group) {
    const BlockTable& table = tables[group];
    // From the end: what lies deepest is worth least without the rest and is forgotten first.
    for (size_t i = table.ids.size(); i > static_cast<size_t>(table.num_null); --i) {
      pools_[group].pool.Release(table.ids[i - 1], last_plan);
    }
  }
  tables.clear();
}

void BlockManager::Retire(uint64_t plan) {
  for (Pool& p : pools_) p.pool.Retire(plan);
}

int64_t BlockManager::PrivateTokens(const BlockTables& tables) const {
  return Fewest(kept_max_, [&](size_t group) {
    const BlockTable& table = tables[group];
    return static_cast<int64_t>(
        std::count_if(table.ids.begin() + table.num_null, table.ids.end(),
                      [&](BlockId id) { return pools_[group].pool.references(id) == 1; }));
  });
}

absl::Status BlockManager::Validate(absl::Span<const BlockTables* const> live) const {
  for (size_t group = 0; group < pools_.size(); ++group) {
    const BlockPool& pool = pools_[group].pool;
    std::vector<uint32_t> references(static_cast<size_t>(pool.total()), 0);
    int64_t held = 0;
    for (const BlockTables* tables : live) {
      if (tables->size() != pools_.size()) return absl::InternalError("tables of another model");
      const BlockTable& table = (*tables)[group];
      for (size_t i = 0; i < table.ids.size(); ++i) {
        const BlockId id = table.ids[i];
        if ((id == kNullBlock) != (static_cast<int64_t>(i) < table.num_null)) {
          return absl::InternalError(absl::StrCat("entry ", i, " of a table with ", table.num_null,
                                                  " blocks behind the window is block ", id));
        }
        if (id == kNullBlock) continue;
        if (id >= references.size()) return absl::InternalError(absl::StrCat("no block ", id));
        if (references[id]++ == 0) ++held;
      }
    }
    TESSERA_RETURN_IF_ERROR(pool.Validate(references));
    if (pool.free() + pool.pinned() + held != pool.total()) {
      return absl::InternalError(absl::StrCat("free ", pool.free(), ", pinned ", pool.pinned(),
                                              ", held ", held, ", total ", pool.total()));
    }
  }
  return absl::OkStatus();
}

}  // namespace tessera
