// Who is charged for which GPU-seconds, and when accounts are closed.

#include <map>
#include <string>
#include <vector>

#include "tests/coordinator/sched/scheduler_fixture.h"

namespace tessera::testing {
namespace {

constexpr double kRanks = 2;  // of FakeRanks: every second counts twice

class SchedulerAccountsTest : public SchedulerTest {
 protected:
  // A step takes 1 s per token, so that shares are easily told.
  void ReadyWithCost(uint32_t group, uint64_t epoch, uint32_t num_blocks = 100) {
    Ready(group, epoch, num_blocks);
    ranks_[group]->SetCost(0, 1);
  }
  // The account of a request that has been closed; a second one fails the test.
  const Work& AccountOf(RequestId id) {
    for (const ClosedAccount& account : scheduler().TakeAccounts()) {
      EXPECT_TRUE(accounts_.emplace(account.request, account.work).second);
    }
    EXPECT_TRUE(accounts_.contains(id)) << "request " << id;
    return accounts_[id];
  }
  Work TenantsUsed() {
    Work sum;
    for (const TenantWork& tenant : scheduler().WorkOfTenants()) sum += tenant.work;
    return sum;
  }

  std::map<RequestId, Work> accounts_;
};

TEST_F(SchedulerAccountsTest, APromptIsPrefillAndItsAnswerDecode) {
  ReadyWithCost(0, 1);
  const RequestId id = Add(25, 4);
  RunToEnd();
  const Work& work = AccountOf(id);
  EXPECT_NEAR(work[WorkKind::kPrefill], kRanks * 25, 1e-6);
  EXPECT_NEAR(work[WorkKind::kDecode], kRanks * 3, 1e-6);  // the last token is never computed
  EXPECT_EQ(work[WorkKind::kRecompute], 0);
  EXPECT_EQ(work[WorkKind::kOverrun], 0);
  EXPECT_NEAR(ends_.at(id).work.total(), work.total(), 1e-9);
}

TEST_F(SchedulerAccountsTest, AccountsSumUpToTheStepsAndToTheTenants) {
  options_.plans_in_flight_max = 2;
  options_.waiting_max = 20;
  ReadyWithCost(0, 1, 60);
  ranks_[0]->SetCost(0.5, 0.25);
  std::vector<RequestId> ids;
  for (int i = 0; i < 12; ++i) {
    auto request = Make(static_cast<size_t>(3 + 5 * i), 20);
    request->tenant = i % 2 == 0 ? "even" : "odd";
    if (i == 3) request->sampling.num_choices = 3;
    ids.push_back(Add(request));
  }
  for (int step = 0; step < 15; ++step) {
    Schedule();
    Finish();
  }
  Lose(0, 1);
  ReadyWithCost(0, 2, 60);
  ranks_[0]->SetCost(0.5, 0.25);
  RunToEnd();
  while (ranks_[0]->in_flight()) Finish();
  Work sum;
  std::map<std::string, Work> of_tenant;
  for (const RequestId id : ids) {
    sum += AccountOf(id);
    of_tenant[requests_.at(id)->tenant] += AccountOf(id);
  }
  EXPECT_GT(sum[WorkKind::kRecompute], 0);
  EXPECT_GT(scheduler().WorkOfGroup(0), 0);
  EXPECT_NEAR(sum.total(), scheduler().WorkOfGroup(0), 1e-6);
  for (const TenantWork& tenant : scheduler().WorkOfTenants()) {
    if (tenant.model != 0) continue;
    for (size_t kind = 0; kind < kNumWorkKinds; ++kind) {
      EXPECT_NEAR(tenant.work.seconds[kind], of_tenant[tenant.tenant].seconds[kind], 1e-9);
    }
  }
}

TEST_F(SchedulerAccountsTest, TenantsAreChargedWhileTheirRequestsRun) {
  ReadyWithCost(0, 1);
  Add(5, 50);
  for (int step = 0; step < 4; ++step) {
    Schedule();
    Finish();
  }
  EXPECT_NEAR(TenantsUsed()[WorkKind::kPrefill], kRanks * 5, 1e-6);
  EXPECT_NEAR(TenantsUsed()[WorkKind::kDecode], kRanks * 3, 1e-6);
  EXPECT_TRUE(scheduler().TakeAccounts().empty());
}

TEST_F(SchedulerAccountsTest, WhatIsComputedAgainIsRecompute) {
  ReadyWithCost(0, 1);
  const RequestId id = Add(9, 6);
  for (int step = 0; step < 3; ++step) {
    Schedule();
    Finish();
  }
  Lose(0, 1);
  ReadyWithCost(0, 2);
  RunToEnd();
  const Work& work = AccountOf(id);
  EXPECT_NEAR(work[WorkKind::kPrefill], kRanks * 9, 1e-6);
  EXPECT_NEAR(work[WorkKind::kRecompute], kRanks * 11, 1e-6);  // the prompt and two tokens
  EXPECT_NEAR(work[WorkKind::kDecode], kRanks * 5, 1e-6);
}

TEST_F(SchedulerAccountsTest, RowsPastAnEndAreOverrunAndCloseTheAccountLater) {
  options_.plans_in_flight_max = 2;
  ReadyWithCost(0, 1);
  auto request = Make(5, 50);
  request->sampling.stop_token_ids = {ExpectedAnswer(*request, 100).tokens[3]};
  const RequestId id = Add(request);
  while (!ends_.contains(id)) {
    Schedule();
    Finish();
  }
  EXPECT_TRUE(scheduler().TakeAccounts().empty());  // a row is still on its way
  EXPECT_EQ(ends_.at(id).work[WorkKind::kOverrun], 0);
  Finish();
  const Work& work = AccountOf(id);
  EXPECT_NEAR(work[WorkKind::kDecode], kRanks * 3, 1e-6);
  EXPECT_NEAR(work[WorkKind::kOverrun], kRanks * 1, 1e-6);
  EXPECT_NEAR(TenantsUsed()[WorkKind::kOverrun], kRanks * 1, 1e-6);
}

TEST_F(SchedulerAccountsTest, WhatAStopStringCutsOffIsOverrunAndWasNeverCharged) {
  ReadyWithCost(0, 1);
  auto request = Make(5, 50);
  request->sampling.has_stop_strings = true;
  const RequestId id = Add(request);
  for (int step = 0; step < 9; ++step) {
    Schedule();
    Finish();
  }
  EXPECT_EQ(TenantsUsed()[WorkKind::kDecode], 0);  // it may be cut off yet
  Apply(TextStop{.request = id, .choice = 0, .index = 4});
  TakeUpdates();
  const Work& work = AccountOf(id);
  EXPECT_NEAR(work[WorkKind::kPrefill], kRanks * 5, 1e-6);
  EXPECT_NEAR(work[WorkKind::kDecode], kRanks * 4, 1e-6);  // five tokens, one from the prompt's row
  EXPECT_NEAR(work[WorkKind::kOverrun], kRanks * 4, 1e-6);  // the others
  EXPECT_NEAR(TenantsUsed()[WorkKind::kDecode], kRanks * 4, 1e-6);
  EXPECT_EQ(scheduler().Stats().models[0].overrun_tokens, 4u);
}

TEST_F(SchedulerAccountsTest, WhoNeverRanHasAnEmptyAccount) {
  ReadyWithCost(0, 1);
  const RequestId refused = Add(200, 4);
  EXPECT_EQ(AccountOf(refused).total(), 0);
  const RequestId cancelled = Add(5, 4);
  Apply(Cancel{.request = cancelled});
  EXPECT_EQ(AccountOf(cancelled).total(), 0);
}

TEST_F(SchedulerAccountsTest, ALostGroupClosesTheAccountsOfItsRows) {
  ReadyWithCost(0, 1);
  const RequestId id = Add(5, 4);
  Schedule();
  Apply(Cancel{.request = id});
  TakeUpdates();
  EXPECT_TRUE(scheduler().TakeAccounts().empty());
  Lose(0, 1);
  EXPECT_EQ(AccountOf(id).total(), 0);  // nobody has answered its row
}

}  // namespace
}  // namespace tessera::testing
