// How long a step takes: the formula, and chance within its bounds.

#include "coordinator/sim/time_model.h"

#include <gtest/gtest.h>

namespace tessera::sim {
namespace {

constexpr uint64_t kNoiseSeed = 11;

cluster::v1::StepPlan PlanOf(std::initializer_list<std::pair<uint32_t, uint32_t>> rows) {
  cluster::v1::StepPlan plan;
  for (const auto& [start, tokens] : rows) {
    plan.add_sequence(1);
    plan.add_start_position(start);
    plan.add_num_new_tokens(tokens);
  }
  return plan;
}

StepTimeModel Model(double noise) {
  StepTimeModel model;
  model.per_step = absl::Milliseconds(1);
  model.per_token = absl::Microseconds(10);
  model.per_kv_token = absl::Nanoseconds(100);
  model.per_pair = absl::Nanoseconds(1);
  model.noise = noise;
  return model;
}

TEST(StepTimeModelTest, AddsWhatEveryRowCosts) {
  Random random(kNoiseSeed);
  const StepTimeModel model = Model(0);
  EXPECT_EQ(model.Compute(PlanOf({}), random), absl::Milliseconds(1));
  // Three tokens behind 1000 others: 1003 positions read, 1001 + 1002 + 1003 pairs.
  const absl::Duration row =
      absl::Microseconds(30) + absl::Nanoseconds(100300) + absl::Nanoseconds(3006);
  EXPECT_EQ(model.Compute(PlanOf({{1000, 3}}), random), absl::Milliseconds(1) + row);
  EXPECT_EQ(model.Compute(PlanOf({{1000, 3}, {1000, 3}}), random), absl::Milliseconds(1) + 2 * row);
}

TEST(StepTimeModelTest, NoiseStaysWithinItsBoundsAndUsesThem) {
  SCOPED_TRACE(::testing::Message() << "seed " << kNoiseSeed);
  Random random(kNoiseSeed);
  const StepTimeModel model = Model(0.2);
  const absl::Duration mean = Model(0).Compute(PlanOf({{0, 5}}), random);
  absl::Duration least = absl::InfiniteDuration();
  absl::Duration most;
  for (int i = 0; i < 1000; ++i) {
    const absl::Duration time = model.Compute(PlanOf({{0, 5}}), random);
    least = std::min(least, time);
    most = std::max(most, time);
  }
  EXPECT_GE(least, mean * 0.8);
  EXPECT_LE(most, mean * 1.2);
  EXPECT_LT(least, mean * 0.81);
  EXPECT_GT(most, mean * 1.19);
}

}  // namespace
}  // namespace tessera::sim
