// Policies that need a whole scheduler: tenants' shares, priorities that take room, chunks that
// leave running streams their pace, deadlines that cannot be met.

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

}  // namespace
}  // namespace tessera::testing
