// A failed check ends the process with the place, the condition and the text.

#include "base/check.h"

#include <gtest/gtest.h>

#include "base/status.h"

namespace tessera {
namespace {

TEST(CheckDeathTest, SaysWhereAndWhat) {
  const int blocks = 3;
  EXPECT_DEATH(TESSERA_CHECK(blocks == 4) << "blocks " << blocks,
               "check_test.cc:.*check failed: blocks == 4 blocks 3");
}

TEST(CheckTest, DoesNotEvaluateTheTextOfAPassedCheck) {
  int evaluated = 0;
  const auto text = [&evaluated] { return ++evaluated; };
  TESSERA_CHECK(true) << text();
  EXPECT_EQ(evaluated, 0);
}

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return absl::InvalidArgumentError("odd");
  return x / 2;
}

absl::StatusOr<int> Quarter(int x) {
  TESSERA_ASSIGN_OR_RETURN(const int half, Half(x));
  TESSERA_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

TEST(StatusTest, MacrosPassValuesAndErrorsOn) {
  EXPECT_EQ(*Quarter(12), 3);
  EXPECT_EQ(Quarter(6).status().message(), "odd");
}

}  // namespace
}  // namespace tessera
