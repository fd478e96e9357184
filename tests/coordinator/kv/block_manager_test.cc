// Promises, tables and release over several KvGroups.

#include "coordinator/kv/block_manager.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace tessera {
namespace {

TEST(BlockManagerTest, ReservesTheWholeLengthInEveryKvGroup) {
  BlockManager manager(16, std::vector<uint32_t>{10, 4});
  EXPECT_TRUE(manager.CanEverFit(64));
  EXPECT_FALSE(manager.CanEverFit(65));  // the second group holds 4 blocks
  BlockTables tables;
  manager.Reserve(33, tables);
  ASSERT_EQ(tables.size(), 2u);
  EXPECT_EQ(manager.available(0), 7);
  EXPECT_EQ(manager.available(1), 1);
  EXPECT_TRUE(manager.CanReserve(16));
  EXPECT_FALSE(manager.CanReserve(17));
  EXPECT_TRUE(tables[0].ids.empty());
}

TEST(BlockManagerTest, ExtendTakesOnlyWhatTheTokensNeed) {
  BlockManager manager(4, std::vector<uint32_t>{8});
  BlockTables tables;
  manager.Reserve(20, tables);
  manager.Extend(1, tables);
  EXPECT_EQ(tables[0].ids, (std::vector<BlockId>{0}));
  manager.Extend(4, tables);
  EXPECT_EQ(tables[0].ids.size(), 1u);
  manager.Extend(5, tables);
  EXPECT_EQ(tables[0].ids, (std::vector<BlockId>{0, 1}));
  EXPECT_EQ(tables[0].reserved, 3);
  EXPECT_EQ(manager.available(0), 3);  // promised blocks count as given
  const BlockTables* live = &tables;
  manager.CheckInvariants({&live, 1});
}

TEST(BlockManagerTest, ReleaseGivesBackPromisesAtOnceAndBlocksAfterTheirPlan) {
  BlockManager manager(4, std::vector<uint32_t>{8});
  BlockTables tables;
  manager.Reserve(20, tables);
  manager.Extend(8, tables);
  manager.Release(3, tables);
  EXPECT_EQ(manager.available(0), 6);
  manager.CheckInvariants({});
  manager.Retire(3);
  EXPECT_EQ(manager.available(0), 8);
  manager.CheckInvariants({});
}

TEST(BlockManagerDeathTest, NobodyGetsMoreThanWasPromised) {
  BlockManager manager(4, std::vector<uint32_t>{8});
  BlockTables tables;
  manager.Reserve(4, tables);
  EXPECT_DEATH(manager.Extend(5, tables), "more than was reserved");
  BlockTables other;
  EXPECT_DEATH(manager.Reserve(32, other), "no room for 32 tokens");
}

TEST(BlockManagerDeathTest, InvariantsNoticeABlockInTwoTables) {
  BlockManager manager(4, std::vector<uint32_t>{8});
  BlockTables tables;
  manager.Reserve(8, tables);
  manager.Extend(8, tables);
  BlockTables thief;
  manager.Reserve(4, thief);
  thief[0].reserved = 0;
  thief[0].ids.push_back(tables[0].ids[1]);
  const BlockTables* live[] = {&tables, &thief};
  EXPECT_DEATH(manager.CheckInvariants(live), "counts 1 tables, 2 hold it");
}

TEST(BlockManagerTest, RandomUseKeepsEveryBlockAccountedFor) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    BlockManager manager(1 + random() % 5,
                         std::vector<uint32_t>{static_cast<uint32_t>(5 + random() % 30), 20});
    struct Holder {
      BlockTables tables;
      int64_t held = 0;
      int64_t limit = 0;
    };
    std::vector<Holder> holders;
    uint64_t plan = 1;
    for (int i = 0; i < 200; ++i) {
      const uint64_t action = random() % 4;
      if (action == 0) {
        const int64_t tokens = static_cast<int64_t>(1 + random() % 40);
        if (manager.CanReserve(tokens)) {
          manager.Reserve(tokens, holders.emplace_back().tables);
          holders.back().limit = tokens;
        }
      } else if (action == 1 && !holders.empty()) {
        Holder& holder = holders[random() % holders.size()];
        holder.held = std::min<int64_t>(holder.limit, holder.held + 1 + random() % 7);
        manager.Extend(holder.held, holder.tables);
      } else if (action == 2 && !holders.empty()) {
        const size_t which = random() % holders.size();
        manager.Release(random() % 2 == 0 ? plan : plan - 1, holders[which].tables);
        holders.erase(holders.begin() + static_cast<int64_t>(which));
      } else {
        manager.Retire(plan++);
      }
      std::vector<const BlockTables*> live;
      for (const Holder& holder : holders) live.push_back(&holder.tables);
      manager.CheckInvariants(live);
    }
    for (Holder& holder : holders) manager.Release(plan, holder.tables);
    manager.Retire(plan);
    EXPECT_EQ(manager.available(0), manager.total(0));
    EXPECT_EQ(manager.available(1), manager.total(1));
  }
}

}  // namespace
}  // namespace tessera
