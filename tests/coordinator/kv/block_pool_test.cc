// Free list, reference counts and pins of one KvGroup's blocks.

#include "coordinator/kv/block_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace tessera {
namespace {

TEST(BlockPoolTest, HandsOutTheLongestFreeBlockFirst) {
  BlockPool pool(3);
  EXPECT_EQ(pool.Take(), 0u);
  EXPECT_EQ(pool.Take(), 1u);
  pool.Release(1, 0);
  pool.Release(0, 0);
  EXPECT_EQ(pool.Take(), 2u);
  EXPECT_EQ(pool.Take(), 1u);
  EXPECT_EQ(pool.Take(), 0u);
  EXPECT_EQ(pool.free(), 0);
}

TEST(BlockPoolTest, ABlockIsFreeOnlyWhenTheLastPlanThatNamesItHasRetired) {
  BlockPool pool(2);
  const BlockId first = pool.Take();
  const BlockId second = pool.Take();
  pool.Release(first, 7);
  pool.Release(second, 8);
  EXPECT_EQ(pool.free(), 0);
  EXPECT_EQ(pool.pinned(), 2);
  pool.Retire(6);
  EXPECT_EQ(pool.free(), 0);
  pool.Retire(7);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(pool.Take(), first);
  pool.Retire(8);
  EXPECT_EQ(pool.Take(), second);
  EXPECT_EQ(pool.pinned(), 0);
}

TEST(BlockPoolTest, ReleaseAfterThePlanRetiredIsFreeAtOnce) {
  BlockPool pool(1);
  pool.Take();
  pool.Retire(5);
  pool.Release(0, 5);
  EXPECT_EQ(pool.free(), 1);
}

TEST(BlockPoolTest, AnOldPinDoesNotOutliveTheBlocksNextHolder) {
  BlockPool pool(1);
  pool.Take();
  pool.Release(0, 9);
  pool.Retire(9);
  pool.Take();
  pool.Release(0, 0);  // no plan has named it for this holder
  EXPECT_EQ(pool.free(), 1);
}

TEST(BlockPoolDeathTest, BrokenUseIsNoticed) {
  BlockPool pool(1);
  EXPECT_DEATH(pool.Release(0, 0), "held by nobody");
  EXPECT_DEATH(pool.Release(1, 0), "block 1 of 1");
  pool.Take();
  EXPECT_DEATH(pool.Take(), "no free block among 1");
  pool.Retire(4);
  EXPECT_DEATH(pool.Retire(3), "plan 3 after 4");
}

TEST(BlockPoolDeathTest, InvariantsNoticeALostBlock) {
  BlockPool pool(2);
  pool.Take();
  pool.CheckInvariants(std::vector<uint32_t>{1, 0});
  EXPECT_DEATH(pool.CheckInvariants(std::vector<uint32_t>{0, 0}), "counts 1 tables, 0 hold it");
  EXPECT_DEATH(pool.CheckInvariants(std::vector<uint32_t>{1, 1}), "counts 0 tables, 1 hold it");
}

}  // namespace
}  // namespace tessera
