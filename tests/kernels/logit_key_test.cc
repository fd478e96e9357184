// The integer order of logits.

#include "kernels/logit_key.h"

#include <limits>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(LogitKey, KeepsTheOrderAndComesBack) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> ascending = {-kInfinity, -3.4e38f, -2.0f,  -1.0f, -1e-40f, 0.0f,
                                        1e-40f,     1.0f,     1.001f, 2.0f,  3.4e38f, kInfinity};
  for (size_t i = 0; i < ascending.size(); ++i) {
    EXPECT_EQ(LogitFromKey(LogitKey(ascending[i])), ascending[i]);
    for (size_t j = 0; j < ascending.size(); ++j) {
      EXPECT_EQ(LogitKey(ascending[i]) < LogitKey(ascending[j]), i < j) << i << " " << j;
    }
  }
  EXPECT_EQ(LogitKey(-0.0f), LogitKey(0.0f));
}

TEST(LogitKey, DigitsAndPrefixes) {
  EXPECT_EQ(LogitKeyDigit(0x12345678u, 3), 0x12u);
  EXPECT_EQ(LogitKeyDigit(0x12345678u, 0), 0x78u);
  EXPECT_TRUE(LogitKeyMatches(0x12345678u, 0xffffffffu, 3));
  EXPECT_TRUE(LogitKeyMatches(0x12345678u, 0x12000000u, 2));
  EXPECT_FALSE(LogitKeyMatches(0x12345678u, 0x13000000u, 2));
  EXPECT_TRUE(LogitKeyMatches(0x12345678u, 0x123456ffu, 0));
  EXPECT_FALSE(LogitKeyMatches(0x12345678u, 0x12345700u, 0));
}

}  // namespace
}  // namespace tessera
