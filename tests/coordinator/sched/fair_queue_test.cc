// Turns between tenants: shares by use, weights, priorities that age, no credit for idling.

#include "coordinator/sched/fair_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <memory_resource>
#include <string>
#include <vector>

namespace tessera {
namespace {

class FairQueueTest : public ::testing::Test {
 protected:
  Sequence& Add(const std::string& tenant, int priority = 0) {
    auto request = std::make_shared<Request>();
    request->id = requests_.size() + 1;
    request->prompt.assign(10, 1);
    request->tenant = tenant;
    request->priority = priority;
    request->arrival = now_;
    request->sampling.max_tokens = 1;
    requests_.push_back(
        std::make_unique<RequestState>(request, requests_.size() + 1, queue_.Tenant(tenant)));
    RequestState& state = *requests_.back();
    std::pmr::polymorphic_allocator<Sequence> allocator(&pool_);
    state.sequences.push_back(
        SequencePtr(allocator.new_object<Sequence>(state, 0, 100, 0), SequenceDeleter{&pool_}));
    queue_.Push(*state.sequences[0]);
    return *state.sequences[0];
  }
  // Serves whose turn it is and charges `cost` tokens; the tenant's name.
  std::string Serve(double cost) {
    Sequence* next = queue_.Next(now_, [](const Sequence&) { return false; });
    if (next == nullptr) return "";
    queue_.Erase(*next);
    FairQueue::Charge(next->request->tenant, cost);
    return next->request->tenant.name;
  }
  std::map<std::string, int> ServeAll(int turns, double cost = 1) {
    std::map<std::string, int> served;
    for (int i = 0; i < turns; ++i) ++served[Serve(cost)];
    return served;
  }

  absl::Time now_ = absl::UnixEpoch();
  FairQueue queue_{absl::Seconds(10)};
  std::pmr::unsynchronized_pool_resource pool_;
  std::vector<std::unique_ptr<RequestState>> requests_;
};

TEST_F(FairQueueTest, OneTenantIsServedInOrderOfArrival) {
  Sequence& first = Add("a");
  Add("a");
  EXPECT_EQ(queue_.Next(now_, [](const Sequence&) { return false; }), &first);
  EXPECT_EQ(queue_.size(), 2);
  EXPECT_EQ(queue_.waiting_tokens(), 20);
}

TEST_F(FairQueueTest, AFloodTakesNoMoreThanItsShare) {
  for (int i = 0; i < 100; ++i) Add("flood");
  for (int i = 0; i < 10; ++i) Add("calm");
  const auto served = ServeAll(20);
  EXPECT_EQ(served.at("flood"), 10);
  EXPECT_EQ(served.at("calm"), 10);
}

TEST_F(FairQueueTest, SharesGoByCostAndWeight) {
  queue_.SetTenants({{.name = "gold", .weight = 3}, {.name = "plain", .weight = 1}});
  for (int i = 0; i < 100; ++i) {
    Add("gold");
    Add("plain");
  }
  const auto served = ServeAll(80);
  EXPECT_NEAR(served.at("gold"), 60, 1);
}

TEST_F(FairQueueTest, IdleTimeEarnsNothing) {
  for (int i = 0; i < 200; ++i) Add("busy");
  ServeAll(100);
  for (int i = 0; i < 50; ++i) Add("late");
  const auto served = ServeAll(40);
  EXPECT_NEAR(served.at("late"), 20, 1);
  while (!Serve(1).empty()) continue;
  Add("fresh");  // after everybody has left
  Add("busy");
  EXPECT_LE(queue_.Tenant("busy").used, queue_.Tenant("fresh").used + 1);
}

TEST_F(FairQueueTest, APriorityGoesFirstUntilTheOthersHaveAged) {
  Add("a", -2);
  now_ += absl::Seconds(15);
  Add("a", 0);
  EXPECT_EQ(queue_.Level(*requests_[0]->sequences[0], now_), -1);
  Sequence* next = queue_.Next(now_, [](const Sequence&) { return false; });
  EXPECT_EQ(next, requests_[1]->sequences[0].get());
  now_ += absl::Seconds(10);
  // As high as the highest, and older.
  next = queue_.Next(now_, [](const Sequence&) { return false; });
  EXPECT_EQ(next, requests_[0]->sequences[0].get());
  now_ += absl::Hours(10);
  EXPECT_EQ(queue_.Level(*requests_[0]->sequences[0], now_), 0);
}

TEST_F(FairQueueTest, AgeGivesNobodyAnAdvantageOverAnotherTenant) {
  for (int i = 0; i < 50; ++i) Add("flood");
  now_ += absl::Hours(1);
  for (int i = 0; i < 10; ++i) Add("calm");
  EXPECT_EQ(ServeAll(20).at("calm"), 10);
}

TEST_F(FairQueueTest, WhoIsOverItsShareComesAfterAllOthers) {
  Add("over", 5);
  Add("other", 0);
  const auto is_over = [](const Sequence& head) { return head.request->tenant.name == "over"; };
  EXPECT_EQ(queue_.Next(now_, is_over)->request->tenant.name, "other");
  queue_.Erase(*requests_[1]->sequences[0]);
  EXPECT_EQ(queue_.Next(now_, is_over)->request->tenant.name, "over");
}

// The bound of the virtual token counter (Theorem 4.3 of the paper): between two tenants that both
// always wait, the difference of what they got never exceeds one request on either side.
TEST_F(FairQueueTest, TheDifferenceBetweenTwoThatAlwaysWaitIsBounded) {
  double used_a = 0;
  double used_b = 0;
  uint64_t random = 88172645463325252u;
  for (int i = 0; i < 3; ++i) {
    Add("a");
    Add("b");
  }
  for (int i = 0; i < 10000; ++i) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    const double cost = 1 + static_cast<double>(random % 100);
    const std::string served = Serve(cost);
    (served == "a" ? used_a : used_b) += cost;
    Add(served);
    ASSERT_LE(std::abs(used_a - used_b), 100) << "turn " << i;
  }
}

}  // namespace
}  // namespace tessera
