// Policies that need a whole scheduler: tenants' shares, priorities that take room, chunks that
// leave running streams their pace, deadlines that cannot be met.

#include <map>
#include <string>
#include <vector>

#include "tests/coordinator/sched/scheduler_fixture.h"

namespace tessera::testing {
namespace {

class SchedulerPolicyTest : public SchedulerTest {
 protected:
  SchedulerPolicyTest() { options_.waiting_max = 1000; }
  std::shared_ptr<Request> Of(const std::string& tenant, size_t prompt, uint32_t max_tokens) {
    auto request = Make(prompt, max_tokens);
    request->tenant = tenant;
    request->arrival = now_;
    return request;
  }
  // Place of the request's end among all updates.
  size_t EndOf(RequestId id) const {
    for (size_t i = 0; i < updates_.size(); ++i) {
      if (updates_[i].request == id && updates_[i].finished) return i;
    }
    ADD_FAILURE() << "request " << id << " has not ended";
    return updates_.size();
  }
};

TEST_F(SchedulerPolicyTest, ASmallTenantIsNotHeldUpByAFlood) {
  options_.rows_max = 2;
  Ready(0);
  for (int i = 0; i < 50; ++i) Add(Of("flood", 5, 5));
  std::vector<RequestId> calm;
  for (int i = 0; i < 3; ++i) calm.push_back(Add(Of("calm", 5, 5)));
  while (ends_.size() < 10) {
    Schedule();
    Finish();
  }
  for (RequestId id : calm) EXPECT_TRUE(ends_.contains(id));
  RunToEnd();
  EXPECT_EQ(ends_.size(), 53u);
}

TEST_F(SchedulerPolicyTest, BorrowedBlocksAreGivenBackWhenTheirOwnerWantsThem) {
  Ready(0, 1, 20);  // 80 positions
  Apply(SetTenants{{{.name = "borrower", .weight = 1, .kv_share = 0.25},
                    {.name = "owner", .weight = 1, .kv_share = 0.75}}});
  std::vector<RequestId> borrowed;
  for (int i = 0; i < 3; ++i) borrowed.push_back(Add(Of("borrower", 12, 8)));
  for (int i = 0; i < 6; ++i) {
    Schedule();
    Finish();
  }
  EXPECT_EQ(scheduler().Stats().running, 3);  // nobody else wanted them
  const RequestId owned = Add(Of("owner", 40, 5));
  for (int i = 0; i < 4; ++i) {
    Schedule();
    Finish();
  }
  EXPECT_GE(scheduler().Stats().models[0].preemptions, 1u);
  RunToEnd();
  EXPECT_EQ(tokens_[owned], Expected(owned).tokens);
  for (RequestId id : borrowed) EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerPolicyTest, AHigherPriorityTakesRoomAndAnAgedOneKeepsItsOwn) {
  options_.rows_max = 1;
  Ready(0);
  const RequestId low = Add(Of("a", 5, 30));
  Schedule();
  Finish();
  auto urgent = Of("b", 5, 3);
  urgent->priority = 3;
  const RequestId high = Add(urgent);
  while (!ends_.contains(high)) {
    Schedule();
    Finish();
  }
  EXPECT_FALSE(ends_.contains(low));
  EXPECT_EQ(scheduler().Stats().models[0].preemptions, 1u);
  // It has waited so long that it is as urgent as any other that comes.
  now_ += options_.priority_ageing * 5;
  auto again = Of("b", 5, 3);
  again->priority = 3;
  Schedule();
  const RequestId late = Add(again);
  Finish();
  while (!ends_.contains(late)) {
    Schedule();
    Finish();
  }
  RunToEnd();
  EXPECT_EQ(tokens_[low], Expected(low).tokens);
}

// 10 ms a step and 1 ms a token: a prompt alone takes whole chunks; beside a stream it takes what
// fits into the target.
TEST_F(SchedulerPolicyTest, ALongPromptLeavesRunningStreamsTheirPace) {
  options_.models[0].context_max = 2000;
  options_.chunk_max = 200;
  options_.tokens_max = 256;
  options_.inter_token_target = absl::Milliseconds(50);
  Ready(0, 1, 1000);
  ranks_[0]->SetCost(0.010, 0.001);
  for (int i = 0; i < 12; ++i) {
    Add(Make(5 + static_cast<size_t>(i) * 15, 2));
    RunToEnd();
  }
  const RequestId stream = Add(Make(5, 500));
  ScheduleOne();
  Finish();
  const RequestId prompt = Add(Make(1000, 2));
  int64_t steps = 0;
  while (!ends_.contains(prompt)) {
    const StepPlan plan = ScheduleOne();
    int64_t tokens = 0;
    for (uint32_t count : plan.num_new_tokens()) tokens += count;
    EXPECT_LE(0.010 + 0.001 * static_cast<double>(tokens), 0.050 * 1.1);
    Finish();
    ++steps;
  }
  EXPECT_LE(steps, 35);  // and not less than there is time for
  Apply(Cancel{.request = stream});
  RunToEnd();
}

TEST_F(SchedulerPolicyTest, WhatCannotMeetItsDeadlineIsRefusedBeforeItsPrompt) {
  options_.models[0].context_max = 2000;
  Ready(0, 1, 1000);
  ranks_[0]->SetCost(0.010, 0.001);
  for (int i = 0; i < 12; ++i) {
    Add(Make(5 + static_cast<size_t>(i) * 3, 2));
    RunToEnd();
  }
  auto hopeless = Make(1000, 2);
  hopeless->deadline = now_ + absl::Milliseconds(300);
  Add(hopeless);
  TakeUpdates();
  ASSERT_TRUE(ends_.contains(hopeless->id));
  EXPECT_EQ(ends_.at(hopeless->id).reason, FinishReason::kDeadline);
  EXPECT_EQ(ends_.at(hopeless->id).error.code(), absl::StatusCode::kDeadlineExceeded);
  auto possible = Make(1000, 2);
  possible->deadline = now_ + absl::Seconds(3);
  Add(possible);
  RunToEnd();
  EXPECT_EQ(tokens_[possible->id], Expected(possible->id).tokens);
}

// Three streams outgrow the pool. The oldest is never taken from.
TEST_F(SchedulerPolicyTest, WhoGivesWayLosesLeastUnlessItIsMoreUrgent) {
  for (const bool is_urgent : {false, true}) {
    SCOPED_TRACE(is_urgent);
    scheduler_ = nullptr;
    Ready(0, 1, 20);  // 80 positions
    for (int i = 0; i < 20; ++i) {
      Add(Make(3, 1));  // short answers are expected from now on, so all three are let in
      RunToEnd();
    }
    Add(Make(8, 40));
    auto small = Make(6, 30);
    small->priority = is_urgent ? 1 : 0;
    Add(small);
    const RequestId large = Add(Make(30, 30));
    std::map<std::string, int> resets;
    while (scheduler().Stats().models[0].preemptions == 0) {
      for (const StepPlan& plan : Schedule()) {
        for (const auto& reset : plan.resets()) ++resets[reset.request_id()];
      }
      Finish();
    }
    while (resets[small->public_id] + resets[absl::StrCat(large)] < 3) {
      for (const StepPlan& plan : Schedule()) {
        for (const auto& reset : plan.resets()) ++resets[reset.request_id()];
      }
      Finish();
    }
    EXPECT_EQ(resets[small->public_id], is_urgent ? 1 : 2);
    EXPECT_EQ(resets[absl::StrCat(large)], is_urgent ? 2 : 1);
    RunToEnd();
  }
}

TEST_F(SchedulerPolicyTest, APromptIsChargedBeforeItsAnswer) {
  options_.rows_max = 1;
  Ready(0);
  Add(Of("a", 60, 1));
  const RequestId b1 = Add(Of("b", 4, 20));
  const RequestId a2 = Add(Of("a", 4, 20));
  const RequestId b2 = Add(Of("b", 4, 20));
  RunToEnd();
  EXPECT_LT(EndOf(b1), EndOf(b2));
  EXPECT_LT(EndOf(b2), EndOf(a2)) << "44 tokens of b against 62 of a";
}

TEST_F(SchedulerPolicyTest, HoldingALongPromptIsChargedRowByRow) {
  options_.models[0].context_max = 20000;
  options_.tokens_max = options_.chunk_max = 4096;
  options_.rows_max = 2;
  Ready(0, 1, 10000);
  constexpr size_t kLong = 16384;
  Add(Of("a", kLong, 200));
  Add(Of("b", kLong, 1));
  Add(Of("b", 16, 300));
  const RequestId a = Add(Of("a", 5, 1));
  const RequestId b = Add(Of("b", 5, 1));
  RunToEnd();
  EXPECT_LT(EndOf(b), EndOf(a)) << "the same prompts and draws, but a has held its own all along";
}

TEST_F(SchedulerPolicyTest, RatesAreOfTheLastSteps) {
  Ready(0, 1, 1000);
  ranks_[0]->SetCost(0.010, 0);
  double ends = 0;
  double seconds = 0;
  const auto run = [&](size_t prompt, uint32_t tokens) {
    Add(Make(prompt, tokens));
    RunToEnd();
    for (uint32_t step = 0; step < tokens; ++step) {
      seconds = 0.999 * seconds + 0.010;
      ends *= 0.999;
    }
    ++ends;
  };
  for (int i = 0; i < 100; ++i) run(5, 3);
  EXPECT_NEAR(scheduler().Stats().models[0].choices_per_second, 33, 1);
  for (int i = 0; i < 20; ++i) run(5, 90);
  EXPECT_NEAR(scheduler().Stats().models[0].choices_per_second, ends / seconds,
              0.05 * ends / seconds);
  EXPECT_NEAR(scheduler().Stats().models[0].tokens_per_second, 100, 10);
}

}  // namespace
}  // namespace tessera::testing
