// The prefix cache and preemption, as single plans show them.

#include <string>
#include <vector>

#include "tests/coordinator/sched/scheduler_fixture.h"

namespace tessera::testing {
namespace {

class SchedulerCacheTest : public SchedulerTest {
 protected:
  SchedulerCacheTest() {
    options_.plans_in_flight_max = 2;
    options_.waiting_max = 100;
  }
  std::shared_ptr<Request> SamePrompt(size_t prompt, uint32_t max_tokens, uint8_t key = 0) {
    auto request = Make(prompt, max_tokens);
    for (size_t i = 0; i < prompt; ++i) request->prompt[i] = static_cast<int32_t>(i % kVocabSize);
    request->cache.key[0] = key;
    return request;
  }
  uint32_t CachedTokens(std::shared_ptr<const Request> request) {
    const RequestId id = Add(std::move(request));
    RunToEnd();
    EXPECT_EQ(tokens_[id], Expected(id).tokens);
    return ends_.at(id).cached_tokens;
  }
};

TEST_F(SchedulerCacheTest, ASecondPromptBeginsWhereTheFirstWasComputed) {
  Ready(0);
  EXPECT_EQ(CachedTokens(SamePrompt(18, 3)), 0u);
  const int64_t before = ranks_[0]->tokens_computed();
  EXPECT_EQ(CachedTokens(SamePrompt(18, 3)), 16u);
  EXPECT_EQ(ranks_[0]->tokens_computed() - before, 2 + 2);
  EXPECT_EQ(CachedTokens(SamePrompt(16, 3)), 12u);  // at least one token is computed
  EXPECT_EQ(scheduler().Stats().models[0].prefix_hit_tokens, 28u);
  EXPECT_EQ(scheduler().Stats().models[0].prefix_query_tokens, 52u);
}

TEST_F(SchedulerCacheTest, AnswersAreFoundToo) {
  Ready(0);
  auto first = SamePrompt(6, 12);
  CachedTokens(first);
  auto next = SamePrompt(6, 3);
  for (int32_t token : tokens_[first->id]) next->prompt.push_back(token);
  EXPECT_EQ(CachedTokens(next), 16u);  // of 18; the last of the answer was never computed
}

TEST_F(SchedulerCacheTest, TenantsNeverHitEachOther) {
  Ready(0);
  CachedTokens(SamePrompt(18, 3, 1));
  EXPECT_EQ(CachedTokens(SamePrompt(18, 3, 2)), 0u);
  EXPECT_EQ(CachedTokens(SamePrompt(18, 3, 1)), 16u);
}

TEST_F(SchedulerCacheTest, ASharedSystemPromptIsSharedAndNothingBehindIt) {
  Ready(0);
  const auto make = [&](uint8_t key) {
    auto request = SamePrompt(30, 3, key);
    request->cache.shared_key[0] = 99;
    request->cache.num_shared_tokens = 10;  // two whole blocks
    return request;
  };
  CachedTokens(make(1));
  EXPECT_EQ(CachedTokens(make(2)), 8u);
  EXPECT_EQ(CachedTokens(make(1)), 28u);
  EXPECT_EQ(CachedTokens(SamePrompt(30, 3, 1)), 0u);  // who does not share does not hit
}

TEST_F(SchedulerCacheTest, OffMeansOff) {
  options_.prefix_cache = false;
  Ready(0);
  CachedTokens(SamePrompt(18, 3));
  EXPECT_EQ(CachedTokens(SamePrompt(18, 3)), 0u);
}

TEST_F(SchedulerCacheTest, ARequestGoesWhereItsPrefixIs) {
  Ready(0);
  Ready(1);
  Add(Make(8, 30));  // to the first group, so that the next one goes to the second
  Add(SamePrompt(18, 3));
  RunToEnd();
  Add(SamePrompt(18, 3));
  for (const StepPlan& plan : Schedule()) {
    EXPECT_EQ(plan.sequence_size(), plan.group() == 1 ? 1 : 0) << "group " << plan.group();
  }
  EXPECT_EQ(scheduler().Stats().groups[1].running, 1);
}

TEST_F(SchedulerCacheTest, WhatIsCachedGivesWayToWhatRuns) {
  Ready(0, 1, 10);
  for (uint8_t key = 1; key < 9; ++key) CachedTokens(SamePrompt(25, 5, key));
  EXPECT_EQ(CachedTokens(SamePrompt(25, 5, 8)), 24u);
  EXPECT_EQ(CachedTokens(SamePrompt(25, 5, 1)), 0u);
}

TEST_F(SchedulerCacheTest, AWindowedModelHitsAndForgetsBehindItsWindow) {
  KvGroup window;
  window.kind = KvGroup::Kind::kWindow;
  window.window = 6;
  options_.models[0].kv_groups.push_back(window);
  Ready(0, 1, 30);
  CachedTokens(SamePrompt(40, 30));
  EXPECT_EQ(CachedTokens(SamePrompt(40, 30)), 36u);
  const RequestId id = Add(SamePrompt(40, 30, 5));
  for (int i = 0; i < 20; ++i) {
    Schedule();
    Finish();
  }
  const GroupStats stats = scheduler().Stats().groups[0];
  EXPECT_LT(stats.blocks_free[0], 20);
  EXPECT_GT(stats.blocks_free[1], 25);
  Lose(0, 1);
  Ready(0, 2, 30);
  RunToEnd();
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

// A window's pool is as much smaller as less of a long sequence stays there.
TEST_F(SchedulerCacheTest, AWindowsSmallPoolHoldsAsManySequencesAsTheLargeOne) {
  KvGroup window;
  window.kind = KvGroup::Kind::kWindow;
  window.window = 8;
  options_.models[0].kv_groups.push_back(window);
  ReadyWith(0, 1, {8 * 22, 8 * 3 + 9});  // 22 blocks of a sequence, of which 3 stay, 9 at most
  std::vector<RequestId> ids;
  for (int i = 0; i < 8; ++i) {
    ids.push_back(Add(Make(6, 80)));
    Schedule();
    Finish();
  }
  EXPECT_EQ(scheduler().Stats().running, 8);
  RunToEnd();
  EXPECT_EQ(scheduler().Stats().models[0].preemptions, 0u);
  for (RequestId id : ids) EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

// Everybody is told to expect short answers, and then they are long.
TEST_F(SchedulerCacheTest, WhoCannotGrowTakesFromWhoLosesLeastAndAllAnswersAreRight) {
  options_.rows_max = 8;
  Ready(0, 1, 20);
  for (int i = 0; i < 20; ++i) {
    Add(Make(3, 1));
    RunToEnd();
  }
  std::vector<RequestId> ids;
  for (int i = 0; i < 6; ++i) {
    auto request = Make(8, 40);
    ids.push_back(Add(request));
  }
  RunToEnd();
  EXPECT_GT(scheduler().Stats().models[0].preemptions, 0u);
  EXPECT_GT(scheduler().Stats().models[0].recomputed_tokens +
                scheduler().Stats().models[0].prefix_hit_tokens,
            0u);
  for (RequestId id : ids) EXPECT_EQ(tokens_[id], Expected(id).tokens);
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_free[0], 20);
}

// Answers of 10 to 20 tokens with a max_tokens of 60: a promise of the worst case would leave most
// of the pool unused, no look ahead would preempt all the time.
TEST_F(SchedulerCacheTest, SteadyLoadFillsThePoolAndHardlyPreempts) {
  options_.rows_max = 32;
  Ready(0, 1, 40);  // 160 positions
  const auto add = [&](int i) {
    auto request = Make(8, 60);
    const std::vector<int32_t> free_run = ExpectedAnswer(*request, 100).tokens;
    const size_t end = 10 + static_cast<size_t>(i) % 10;
    request->sampling.stop_token_ids = {free_run[end]};
    Add(request);
  };
  int added = 0;
  int64_t most_running = 0;
  while (ends_.size() < 400) {
    while (added < 400 && scheduler().Stats().waiting < 10) add(added++);
    Schedule();
    most_running = std::max(most_running, scheduler().Stats().running);
    Finish();
  }
  EXPECT_GE(most_running, 5);  // the worst case of each is 17 blocks: two at a time
  EXPECT_LE(scheduler().Stats().models[0].preemptions, 40u);
  for (const auto& [id, request] : requests_) EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

}  // namespace
}  // namespace tessera::testing
