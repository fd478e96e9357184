// Tables over several KvGroups: hits, windows, copy-on-write, and random lives against a shadow.

#include "coordinator/kv/block_manager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr int64_t kSize = 4;  // tokens of a block
const PrefixKey kTestKey = {7};

std::vector<BlockHash> HashesOf(const std::vector<int32_t>& tokens) {
  std::vector<BlockHash> hashes;
  BlockHash parent = PrefixRoot(kTestKey, "");
  for (size_t i = 0; (i + 1) * kSize <= tokens.size(); ++i) {
    parent = ChainBlock(kTestKey, parent, absl::MakeConstSpan(tokens).subspan(i * kSize, kSize));
    hashes.push_back(parent);
  }
  return hashes;
}

// A sequence with its own chain.
struct Life {
  explicit Life(std::vector<int32_t> tokens_in)
      : tokens(std::move(tokens_in)), hashes(HashesOf(tokens)) {}
  PrefixChain chain() const { return {PrefixRoot(kTestKey, ""), hashes, tokens}; }

  std::vector<int32_t> tokens;
  std::vector<BlockHash> hashes;
  BlockTables tables;
};

std::vector<int32_t> Counting(int64_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = first + static_cast<int32_t>(i);
  return tokens;
}

std::vector<PoolSpec> FullAndWindow(uint32_t blocks) {
  return {{.num_blocks = blocks}, {.num_blocks = blocks, .window = 6, .chunk_max = 8}};
}

// Computes the whole sequence as one row of plan 1.
void Compute(BlockManager& blocks, Life& life) {
  std::vector<BlockCopy> copies;
  const int64_t count = static_cast<int64_t>(life.tokens.size());
  if (life.tables.empty()) blocks.Open({}, 0, life.tables);
  ASSERT_TRUE(blocks.Extend(0, count, 1, life.tables, copies));
  blocks.SetContent(life.chain(), 0, static_cast<int64_t>(life.hashes.size()), life.tables);
}

TEST(BlockManagerTest, WhatWasComputedIsFoundAndHeldAgain) {
  BlockManager blocks(kSize, std::vector<PoolSpec>{{.num_blocks = 10}});
  Life first(Counting(11));
  Compute(blocks, first);
  Life second(Counting(11));
  second.tokens.back() = 99;
  EXPECT_EQ(blocks.FindPrefix(second.chain()).blocks, 2);
  EXPECT_EQ(blocks.FindPrefix(second.chain()).held, 2);
  blocks.Open(second.chain(), 2, second.tables);
  EXPECT_EQ(second.tables[0].ids, (std::vector<BlockId>{0, 1}));
  EXPECT_EQ(blocks.PrivateTokens(first.tables), kSize);
  blocks.Release(0, first.tables);
  blocks.Release(0, second.tables);
  EXPECT_EQ(blocks.free(0), 10);
  EXPECT_EQ(blocks.cached(0), 2);
  EXPECT_EQ(blocks.FindPrefix(second.chain()).held, 0);
}

TEST(BlockManagerTest, TheDeepestBlockIsForgottenFirst) {
  BlockManager blocks(kSize, std::vector<PoolSpec>{{.num_blocks = 3}});
  Life life(Counting(12));
  Compute(blocks, life);
  blocks.Release(0, life.tables);
  Life other(Counting(4, 50));
  Compute(blocks, other);
  EXPECT_EQ(blocks.FindPrefix(life.chain()).blocks, 2);
}

TEST(BlockManagerTest, AWindowKeepsWhatItSeesAndAHitNeedsOnlyThat) {
  BlockManager blocks(kSize, FullAndWindow(10));
  Life life(Counting(20));
  Compute(blocks, life);
  blocks.DropBehindWindow(16, life.tables);  // sees positions from 11 on: blocks 2, 3, 4
  EXPECT_EQ(life.tables[1].num_null, 2);
  EXPECT_EQ(life.tables[1].ids[1], kNullBlock);
  EXPECT_EQ(life.tables[0].num_null, 0);
  EXPECT_TRUE(blocks.Validate(std::vector<const BlockTables*>{&life.tables}).ok());
  EXPECT_EQ(blocks.cached(1), 2);
  blocks.Release(0, life.tables);
  // Two of the window group's blocks go: the deepest of what is cached longest, which is block 0.
  Life same(Counting(20));
  EXPECT_EQ(blocks.FindPrefix(same.chain()).blocks, 5);
  blocks.Open(same.chain(), 5, same.tables);
  EXPECT_EQ(same.tables[1].num_null, 3);  // the query at 20 sees from 15 on
  EXPECT_EQ(same.tables[0].num_null, 0);
}

TEST(BlockManagerTest, AHitIsTheLongestThatEveryKvGroupHas) {
  BlockManager blocks(kSize, FullAndWindow(5));
  Life life(Counting(20));
  Compute(blocks, life);
  blocks.DropBehindWindow(19, life.tables);  // sees from 14 on: blocks 0, 1, 2 are free
  Life thief({60, 61, 62, 63});
  std::vector<BlockCopy> copies;
  BlockTables stolen;
  blocks.Release(0, life.tables);
  blocks.Open({}, 0, stolen);
  ASSERT_TRUE(blocks.Extend(0, 8, 1, stolen, copies));  // takes two blocks of each group
  // Full: blocks 4 and 3 are forgotten. Window: 0 and 1, which were free for longest.
  Life same(Counting(20));
  EXPECT_EQ(blocks.FindPrefix(same.chain()).blocks, 0);  // 3 blocks need 6..: block 1, 2
  blocks.Release(0, stolen);
}

TEST(BlockManagerTest, ASharedBlockIsCopiedBeforeItIsWritten) {
  BlockManager blocks(kSize, std::vector<PoolSpec>{{.num_blocks = 4}});
  Life parent(Counting(6));
  Compute(blocks, parent);
  BlockTables child;
  blocks.Share(parent.tables, child);
  std::vector<BlockCopy> copies;
  ASSERT_TRUE(blocks.Extend(6, 7, 2, parent.tables, copies));
  ASSERT_EQ(copies.size(), 1u);
  EXPECT_EQ(copies[0].from, 1u);
  EXPECT_EQ(copies[0].to, parent.tables[0].ids[1]);
  EXPECT_NE(parent.tables[0].ids[1], child[0].ids[1]);
  ASSERT_TRUE(blocks.Extend(6, 7, 2, child, copies));
  EXPECT_EQ(copies.size(), 1u);  // the last one writes in place
  EXPECT_TRUE(blocks.Validate(std::vector<const BlockTables*>{&parent.tables, &child}).ok());
}

TEST(BlockManagerTest, TooFewBlocksChangeNothing) {
  BlockManager blocks(kSize, FullAndWindow(3));
  Life life(Counting(10));
  Compute(blocks, life);
  std::vector<BlockCopy> copies;
  BlockTables other;
  blocks.Open({}, 0, other);
  EXPECT_FALSE(blocks.Extend(0, 4, 2, other, copies));
  EXPECT_TRUE(other[0].ids.empty());
  EXPECT_TRUE(copies.empty());
}

TEST(BlockManagerTest, AWindowedGroupMayBeSmallerThanASequence) {
  BlockManager blocks(kSize, std::vector<PoolSpec>{{.num_blocks = 100},
                                                   {.num_blocks = 8, .window = 6, .chunk_max = 8}});
  EXPECT_TRUE(blocks.CanEverFit(400));
  EXPECT_FALSE(blocks.CanEverFit(401));
  EXPECT_FALSE(
      BlockManager(kSize, std::vector<PoolSpec>{{.num_blocks = 7, .window = 6, .chunk_max = 8}})
          .CanEverFit(400));
}

// Random openings, growth, forks, releases and retirements. A shadow remembers what every position
// of every live table must contain; a block that is handed out twice, forgotten too late or written
// while shared shows as a wrong content.
TEST(BlockManagerTest, RandomLivesAgreeWithAShadow) {
  const uint64_t seed = 20261122;
  std::mt19937_64 random(seed);
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  BlockManager blocks(kSize, FullAndWindow(24));
  std::vector<std::map<BlockId, std::vector<int32_t>>> content(2);  // [KvGroup][block] tokens
  std::vector<std::unique_ptr<Life>> lives;
  int64_t hits = 0;
  uint64_t plan = 0;
  for (int turn = 0; turn < 20000; ++turn) {
    const uint64_t dice = random() % 10;
    if (dice < 5) {
      auto life = std::make_unique<Life>(
          Counting(1 + static_cast<int64_t>(random() % 30), static_cast<int32_t>(random() % 2)));
      const int64_t hit = blocks.FindPrefix(life->chain()).blocks;
      blocks.Open(life->chain(), hit, life->tables);
      hits += hit;
      const int64_t end = static_cast<int64_t>(life->tokens.size());
      std::vector<BlockCopy> copies;
      ++plan;
      if (!blocks.Extend(hit * kSize, end, plan, life->tables, copies)) {
        blocks.Release(plan, life->tables);
        continue;
      }
      for (size_t group = 0; group < 2; ++group) {
        const BlockTable& table = life->tables[group];
        for (int64_t p = table.num_null * kSize; p < end; ++p) {
          const size_t at = static_cast<size_t>(p);
          std::vector<int32_t>& block = content[group][table.ids[at / kSize]];
          block.resize(kSize, -1);
          if (p >= hit * kSize) block[at % kSize] = life->tokens[at];
          ASSERT_EQ(block[at % kSize], life->tokens[at]) << "turn " << turn;
        }
      }
      blocks.SetContent(life->chain(), hit, static_cast<int64_t>(life->hashes.size()),
                        life->tables);
      blocks.DropBehindWindow(end - 1, life->tables);
      lives.push_back(std::move(life));
    } else if (dice < 9 && !lives.empty()) {
      const size_t which = random() % lives.size();
      blocks.Release(plan - random() % 2, lives[which]->tables);
      lives.erase(lives.begin() + static_cast<int64_t>(which));
    } else {
      blocks.Retire(plan);
    }
    std::vector<const BlockTables*> live;
    for (const auto& life : lives) live.push_back(&life->tables);
    const absl::Status valid = blocks.Validate(live);
    ASSERT_TRUE(valid.ok()) << "turn " << turn << ": " << valid;
  }
  EXPECT_GT(hits, 1000);
}

}  // namespace
}  // namespace tessera
