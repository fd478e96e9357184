// What a block's name depends on: everything that its content does, and the key.

#include "coordinator/kv/prefix_hash.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace tessera {
namespace {

PrefixKey KeyOf(uint8_t first, uint8_t last) {
  PrefixKey key = {};
  key.front() = first;
  key.back() = last;
  return key;
}

TEST(PrefixHashTest, EveryPartOfAKeyCounts) {
  const BlockHash root = PrefixRoot(KeyOf(1, 1), "model");
  EXPECT_EQ(root, PrefixRoot(KeyOf(1, 1), "model"));
  EXPECT_FALSE(root == PrefixRoot(KeyOf(2, 1), "model"));
  EXPECT_FALSE(root == PrefixRoot(KeyOf(1, 2), "model"));
  EXPECT_FALSE(root == PrefixRoot(KeyOf(1, 1), "model/adapter"));
}

TEST(PrefixHashTest, ABlockIsItsTokensAndWhatIsBeforeThem) {
  const std::vector<int32_t> tokens = {1, 2, 3, 4};
  const PrefixKey key = KeyOf(1, 1);
  const BlockHash root = PrefixRoot(key, "");
  const BlockHash block = ChainBlock(key, root, tokens);
  EXPECT_EQ(block, ChainBlock(key, root, tokens));
  EXPECT_FALSE(block == ChainBlock(key, root, {1, 2, 4, 3}));
  EXPECT_FALSE(block == ChainBlock(key, block, tokens));
  EXPECT_FALSE(block == ChainBlock(KeyOf(2, 1), root, tokens));
  EXPECT_FALSE(block == root);
}

TEST(PrefixHashTest, LongBlocksWork) {
  const PrefixKey key = KeyOf(1, 1);
  std::vector<int32_t> tokens(1000, 7);
  const BlockHash before = ChainBlock(key, {}, tokens);
  tokens.back() = 8;
  EXPECT_FALSE(before == ChainBlock(key, {}, tokens));
}

}  // namespace
}  // namespace tessera
