// Who gets which block, when it is free again, and what is remembered of it.

#include "coordinator/kv/block_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace tessera {
namespace {

constexpr int64_t kPoolBlock = 4;  // tokens

// A content: four tokens under a root of its own.
struct Content {
  explicit Content(int32_t value) : tokens(kPoolBlock, value) {
    hash = ChainBlock({}, parent, tokens);
  }
  BlockHash parent;
  BlockHash hash;
  std::vector<int32_t> tokens;
};

void Fill(BlockPool& pool, BlockId id, const Content& content) {
  pool.SetContent(id, content.hash, content.parent, content.tokens);
}
BlockId Find(const BlockPool& pool, const Content& content) {
  return pool.Find(content.hash, content.parent, content.tokens);
}

TEST(BlockPoolTest, EmptyBlocksComeInOrderAndTheLongestFreeOneFirst) {
  BlockPool pool(3, kPoolBlock);
  EXPECT_EQ(pool.Take(), 0u);
  EXPECT_EQ(pool.Take(), 1u);
  pool.Release(0, 0);
  EXPECT_EQ(pool.Take(), 2u);
  EXPECT_EQ(pool.Take(), 0u);
  EXPECT_EQ(pool.free(), 0);
  EXPECT_TRUE(pool.Validate(std::vector<uint32_t>{1, 1, 1}).ok());
}

TEST(BlockPoolTest, ABlockThatAPlanNamesIsNotFreeBeforeThePlanHasRetired) {
  BlockPool pool(2, kPoolBlock);
  pool.Take();
  pool.Release(0, 7);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(pool.pinned(), 1);
  pool.Retire(6);
  EXPECT_EQ(pool.pinned(), 1);
  pool.Retire(7);
  EXPECT_EQ(pool.free(), 2);
  EXPECT_EQ(pool.pinned(), 0);
  EXPECT_TRUE(pool.Validate(std::vector<uint32_t>{0, 0}).ok());
}

TEST(BlockPoolTest, TheLastHolderWithTheLatestPlanDecides) {
  BlockPool pool(1, kPoolBlock);
  pool.Take();
  pool.Hold(0);
  pool.Release(0, 9);
  pool.Release(0, 3);
  EXPECT_EQ(pool.pinned(), 1);
  pool.Retire(8);
  EXPECT_EQ(pool.free(), 0);
  pool.Retire(9);
  EXPECT_EQ(pool.free(), 1);
}

TEST(BlockPoolTest, ContentIsFoundWhileHeldPinnedAndFree) {
  BlockPool pool(2, kPoolBlock);
  const Content a(1);
  pool.Take();
  EXPECT_EQ(Find(pool, a), kNullBlock);
  Fill(pool, 0, a);
  EXPECT_EQ(Find(pool, a), 0u);
  pool.Release(0, 5);
  EXPECT_EQ(Find(pool, a), 0u);  // pinned
  pool.Hold(0);
  EXPECT_EQ(pool.pinned(), 0);
  pool.Release(0, 5);
  EXPECT_EQ(pool.pinned(), 1);
  pool.Retire(5);
  EXPECT_EQ(pool.cached(), 1);
  EXPECT_EQ(Find(pool, a), 0u);
  pool.Hold(0);
  EXPECT_EQ(pool.cached(), 0);
  EXPECT_TRUE(pool.Validate(std::vector<uint32_t>{1, 0}).ok());
}

TEST(BlockPoolTest, ABlockThatIsHeldAgainBeforeItsPlanRetiresStaysHeld) {
  BlockPool pool(2, kPoolBlock);
  pool.Take();
  Fill(pool, 0, Content(1));
  pool.Release(0, 5);
  pool.Hold(0);
  pool.Retire(5);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(pool.references(0), 1u);
  EXPECT_TRUE(pool.Validate(std::vector<uint32_t>{1, 0}).ok());
}

TEST(BlockPoolTest, EmptyBlocksGoFirstThenTheLongestUnusedContent) {
  BlockPool pool(3, kPoolBlock);
  const Content a(1);
  const Content b(2);
  for (int i = 0; i < 2; ++i) pool.Take();
  Fill(pool, 0, a);
  Fill(pool, 1, b);
  pool.Release(0, 0);
  pool.Release(1, 0);
  pool.Hold(0);  // used once more: b is older now
  pool.Release(0, 0);
  EXPECT_EQ(pool.Take(), 2u);
  EXPECT_EQ(pool.Take(), 1u);
  EXPECT_EQ(Find(pool, b), kNullBlock);
  EXPECT_EQ(Find(pool, a), 0u);
  EXPECT_EQ(pool.Take(), 0u);
  EXPECT_EQ(Find(pool, a), kNullBlock);
}

TEST(BlockPoolTest, TheFirstBlockWithAContentKeepsItsName) {
  BlockPool pool(2, kPoolBlock);
  const Content a(1);
  pool.Take();
  pool.Take();
  Fill(pool, 0, a);
  Fill(pool, 1, a);
  pool.Release(1, 0);
  EXPECT_EQ(pool.cached(), 0);
  EXPECT_EQ(Find(pool, a), 0u);
  EXPECT_TRUE(pool.Validate(std::vector<uint32_t>{1, 0}).ok());
}

TEST(BlockPoolTest, AHitComparesTokensAndParents) {
  BlockPool pool(1, kPoolBlock);
  const Content a(1);
  pool.Take();
  Fill(pool, 0, a);
  EXPECT_EQ(pool.Find(a.hash, a.parent, Content(2).tokens), kNullBlock);
  EXPECT_EQ(pool.Find(a.hash, Content(2).hash, a.tokens), kNullBlock);
}

TEST(BlockPoolTest, ValidateSeesWrongReferences) {
  BlockPool pool(2, kPoolBlock);
  pool.Take();
  EXPECT_FALSE(pool.Validate(std::vector<uint32_t>{0, 0}).ok());
  EXPECT_FALSE(pool.Validate(std::vector<uint32_t>{1, 1}).ok());
  EXPECT_TRUE(pool.Validate(std::vector<uint32_t>{1, 0}).ok());
}

}  // namespace
}  // namespace tessera
