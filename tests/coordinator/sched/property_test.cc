// Thousands of random lives. TESSERA_SEED=n replays one, TESSERA_SEEDS=n says how many to run.

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "tests/coordinator/sched/workload.h"

namespace tessera::testing {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  uint64_t value = otherwise;
  if (text == nullptr) return otherwise;
  EXPECT_TRUE(absl::SimpleAtoi(text, &value)) << name << "=" << text;
  return value;
}

TEST(SchedulerPropertyTest, EveryRandomLifeIsRight) {
  const uint64_t only = FromEnvironment("TESSERA_SEED", 0);
  const uint64_t first = only != 0 ? only : 1;
  const uint64_t last = only != 0 ? only : FromEnvironment("TESSERA_SEEDS", 2000);
  uint64_t plans = 0;
  uint64_t losses = 0;
  std::map<FinishReason, uint64_t> ends;
  for (uint64_t seed = first; seed <= last; ++seed) {
    // A broken invariant aborts; the seed must be on the screen by then.
    std::fprintf(stderr, "\rseed %lu", seed);
    Workload life(seed);
    const std::vector<std::string> violations = life.Run();
    ASSERT_TRUE(violations.empty()) << "replay with TESSERA_SEED=" << seed << "\n"
                                    << absl::StrJoin(violations, "\n");
    plans += life.plans();
    losses += life.losses();
    for (const auto& [id, logged] : life.log().requests()) ++ends[logged.end->reason];
  }
  std::fprintf(stderr, "\n%lu plans, %lu group losses", plans, losses);
  for (const auto& [reason, count] : ends) {
    std::fprintf(stderr, ", %lu %s", count, FinishReasonName(reason));
  }
  std::fprintf(stderr, "\n");
  if (only != 0) return;
  // The lives are worth living: everything that can happen happened.
  EXPECT_EQ(ends.size(), 6u);
  EXPECT_GT(losses, last);
}

TEST(SchedulerPropertyTest, TheSameSeedIsTheSameLife) {
  Workload first(7);
  Workload second(7);
  EXPECT_TRUE(first.Run().empty());
  EXPECT_TRUE(second.Run().empty());
  EXPECT_EQ(first.plans(), second.plans());
  ASSERT_EQ(first.log().requests().size(), second.log().requests().size());
  for (const auto& [id, logged] : first.log().requests()) {
    EXPECT_EQ(logged.emitted, second.log().requests().at(id).emitted);
  }
}

}  // namespace
}  // namespace tessera::testing
