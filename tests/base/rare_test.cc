// Rare: made on demand, copied with its owner.

#include "base/rare.h"

#include <gtest/gtest.h>

#include <utility>

namespace tessera {
namespace {

TEST(RareTest, IsNotThereUntilItIsMade) {
  Rare<int> rare;
  EXPECT_FALSE(rare.has_value());
  rare.Make() = 3;
  ASSERT_TRUE(rare.has_value());
  EXPECT_EQ(*rare, 3);
  EXPECT_EQ(rare.Make(), 3) << "made once";
  static_assert(sizeof(rare) == sizeof(void*));
}

TEST(RareTest, CopiesAreOfTheirOwn) {
  Rare<int> rare;
  rare.Make() = 3;
  Rare<int> copy = rare;
  copy.Make() = 4;
  EXPECT_EQ(*rare, 3);
  rare = copy;
  EXPECT_EQ(*rare, 4);
  rare = Rare<int>();
  EXPECT_FALSE(rare.has_value());
  const Rare<int> moved = std::move(copy);
  EXPECT_EQ(*moved, 4);
}

}  // namespace
}  // namespace tessera
