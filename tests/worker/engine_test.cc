// Engines of one group executing plans: tokens, accounts, heartbeats, refusals, lost peers.

#include "worker/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/worker/engine_group.h"

namespace tessera {
namespace {

using cluster::v1::DeviceInterval;
using cluster::v1::StepPlan;
using cluster::v1::StepResult;
using testing::ElementsAre;
using testing::HasSubstr;

class EngineTest : public EngineGroupTest {};

TEST_F(EngineTest, RanksAgreeAndTpDoesNotShow) {
  std::vector<std::vector<int32_t>> texts;
  for (int tp : {1, 2, 4}) {
    engines_.clear();
    ops_.clear();
    step_ = 0;
    ASSERT_NO_FATAL_FAILURE(Start(tp));
    StepPlan prompt = NewPlan();
    AddRow(prompt, 1, 0, {3, 1, 4, 1, 5, 9, 2, 6}, {7}, true);
    AddRow(prompt, 2, 0, {8, 9}, {2}, false);
    prompt.mutable_resets(0)->mutable_sampling()->set_temperature(0.8f);
    prompt.mutable_resets(0)->mutable_sampling()->set_top_p(0.9f);
    prompt.mutable_resets(0)->mutable_sampling()->set_seed(77);
    std::vector<int32_t> text;
    std::vector<StepResult> results = Execute(prompt);
    for (uint32_t position = 8;; ++position) {
      for (const StepResult& result : results) {
        ASSERT_FALSE(result.has_error()) << result.error().message();
        ASSERT_THAT(result.num_sampled(), ElementsAre(1, 0));
        ASSERT_EQ(result.sampled_size(), 1);
        EXPECT_EQ(result.sampled(0), results[0].sampled(0));
        EXPECT_EQ(result.rows(), 2u);
      }
      text.push_back(results[0].sampled(0));
      if (position == 20) break;
      StepPlan next = NewPlan();
      AddRow(next, 1, position, {text.back()},
             position % 16 == 0 ? std::vector<uint32_t>{position} : std::vector<uint32_t>{}, true);
      AddRow(next, 2, position - 6, {1}, {}, false);
      if (position - 6 >= 16) FAIL() << "sequence 2 would need a block";
      results = Execute(next);
    }
    texts.push_back(text);
  }
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_EQ(texts[0], texts[2]);
}

TEST_F(EngineTest, AccountsForTheStep) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  StepPlan plan = NewPlan();
  for (uint64_t row = 0; row < 16; ++row) {
    AddRow(plan, row, 0, {1, 2, static_cast<int32_t>(row)}, {static_cast<uint32_t>(row)}, true);
  }
  for (const StepResult& result : Execute(plan)) {
    EXPECT_EQ(result.term(), 3u);
    EXPECT_EQ(result.epoch(), 5u);
    EXPECT_EQ(result.group(), 1u);
    EXPECT_EQ(result.step(), 1u);
    EXPECT_EQ(result.rows(), 16u);
    EXPECT_EQ(result.tokens_computed(), 48u);
    EXPECT_EQ(result.sampled_size(), 16);
    EXPECT_GT(result.resident_bytes(), uint64_t{1} << 20);
    uint64_t sum = 0;
    uint32_t kinds = 0;
    for (const DeviceInterval& interval : result.intervals()) {
      EXPECT_GT(interval.duration_ns(), 0u);
      EXPECT_EQ(kinds & (1u << interval.kind()), 0u);
      kinds |= 1u << interval.kind();
      sum += interval.duration_ns();
    }
    EXPECT_EQ(kinds, 7u) << "compute, collective and sample";
    EXPECT_LE(sum, result.step_ns());
    EXPECT_GE(sum, result.step_ns() / 4);
  }
}

TEST_F(EngineTest, EmptyPlanIsAHeartbeatOfAllRanks) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  for (int i = 0; i < 3; ++i) {
    const StepPlan plan = NewPlan();
    for (const StepResult& result : Execute(plan)) {
      EXPECT_FALSE(result.has_error());
      EXPECT_EQ(result.step(), plan.step());
      EXPECT_EQ(result.rows(), 0u);
    }
  }
}

TEST_F(EngineTest, HeartbeatFailsWithoutThePeer) {
  ASSERT_NO_FATAL_FAILURE(Start(2, absl::Milliseconds(50)));
  StepResult result;
  const absl::Status status = engines_[0]->Execute(NewPlan(), result);
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(result.error().code(), static_cast<int>(status.code()));
}

TEST_F(EngineTest, AbortEndsAStepThatWaitsForAPeer) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  std::thread aborter([this] {
    absl::SleepFor(absl::Milliseconds(50));
    engines_[0]->Abort();
  });
  StepPlan plan = NewPlan();
  AddRow(plan, 1, 0, {1, 2}, {0}, true);
  StepResult result;
  EXPECT_FALSE(engines_[0]->Execute(plan, result).ok());
  aborter.join();
  EXPECT_TRUE(result.has_error());
}

TEST_F(EngineTest, OtherTermsEpochsGroupsAndStepsAreRefused) {
  ASSERT_NO_FATAL_FAILURE(Start(1));
  StepPlan plans[4];
  for (StepPlan& plan : plans) {
    plan = NewPlan();
    plan.set_step(1);
  }
  plans[0].set_term(2);
  plans[1].set_epoch(6);
  plans[2].set_group(0);
  plans[3].set_step(2);
  for (const StepPlan& plan : plans) {
    const StepResult result = Execute(plan)[0];
    EXPECT_EQ(result.error().code(), static_cast<int>(absl::StatusCode::kFailedPrecondition));
  }
  step_ = 0;
  EXPECT_FALSE(Execute(NewPlan())[0].has_error());
}

TEST_F(EngineTest, ARefusedPlanChangesNothing) {
  ASSERT_NO_FATAL_FAILURE(Start(1));
  StepPlan prompt = NewPlan();
  AddRow(prompt, 1, 0, {3, 1, 4}, {0}, true);
  const int32_t first = Execute(prompt)[0].sampled(0);

  StepPlan bad = NewPlan();
  AddRow(bad, 1, 3, {first}, {}, true);
  AddRow(bad, 2, 0, {5}, {999}, true);
  const StepResult refused = Execute(bad)[0];
  EXPECT_EQ(refused.error().code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(refused.error().message(), HasSubstr("block_ids[0] = 999"));
  EXPECT_EQ(refused.sampled_size(), 0);

  StepPlan reserved = NewPlan();
  reserved.add_adapter(1);
  EXPECT_EQ(Execute(reserved)[0].error().code(),
            static_cast<int>(absl::StatusCode::kUnimplemented));

  // Sequence 1 still has 3 computed tokens, sequence 2 is still unknown.
  StepPlan good = NewPlan();
  AddRow(good, 1, 3, {first}, {}, true);
  EXPECT_FALSE(Execute(good)[0].has_error());
  StepPlan unknown = NewPlan();
  AddRow(unknown, 2, 1, {5}, {}, true);
  EXPECT_THAT(Execute(unknown)[0].error().message(), HasSubstr("unknown"));
}

TEST_F(EngineTest, FinishedSequencesAreForgotten) {
  ASSERT_NO_FATAL_FAILURE(Start(1));
  StepPlan prompt = NewPlan();
  AddRow(prompt, 1, 0, {3, 1, 4}, {0}, true);
  prompt.add_finished_sequences(1);
  EXPECT_FALSE(Execute(prompt)[0].has_error());
  StepPlan next = NewPlan();
  AddRow(next, 1, 3, {1}, {}, true);
  EXPECT_THAT(Execute(next)[0].error().message(), HasSubstr("sequence[0] = 1, unknown"));
}

// A fork: the copied block continues like the original, and the original is not touched by the
// copy's tokens.
TEST_F(EngineTest, CopiedBlocksHoldTheSameKeysAndValues) {
  ASSERT_NO_FATAL_FAILURE(Start(2));
  StepPlan prompt = NewPlan();
  AddRow(prompt, 1, 0, {3, 1, 4, 1, 5}, {4}, true);
  const int32_t token = Execute(prompt)[0].sampled(0);

  StepPlan fork = NewPlan();
  cluster::v1::BlockCopy* copy = fork.add_copies();
  copy->set_from_block(4);
  copy->set_to_block(6);
  AddRow(fork, 2, 5, {(token + 1) % static_cast<int32_t>(kTinyVocab)}, {6}, true);
  fork.add_resets()->set_row(0);
  ASSERT_FALSE(Execute(fork)[0].has_error());

  StepPlan both = NewPlan();
  AddRow(both, 1, 5, {token}, {}, true);
  const int32_t original = Execute(both)[0].sampled(0);

  StepPlan again = NewPlan();
  AddRow(again, 3, 0, {3, 1, 4, 1, 5, token}, {8}, true);
  EXPECT_EQ(Execute(again)[0].sampled(0), original);

  StepPlan forked = NewPlan();
  AddRow(forked, 4, 0, {3, 1, 4, 1, 5, (token + 1) % static_cast<int32_t>(kTinyVocab), 2}, {9},
         true);
  const int32_t wanted = Execute(forked)[0].sampled(0);
  StepPlan continued = NewPlan();
  AddRow(continued, 2, 6, {2}, {}, true);
  EXPECT_EQ(Execute(continued)[0].sampled(0), wanted);
}

}  // namespace
}  // namespace tessera
