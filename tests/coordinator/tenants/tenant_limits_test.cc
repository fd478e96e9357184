// Places and tokens per minute under a clock that the test moves.

#include "coordinator/tenants/tenant_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "coordinator/engine/retry_after.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

const absl::Time kBegin = absl::FromUnixSeconds(1'000'000);

Tenant MakeTenant(std::string name, int64_t in_flight, int64_t tokens_per_minute) {
  Tenant tenant;
  tenant.name = std::move(name);
  tenant.limits = {.requests_in_flight = in_flight, .tokens_per_minute = tokens_per_minute};
  return tenant;
}

class TenantLimitsTest : public ::testing::Test {
 protected:
  void Configure(std::vector<Tenant> tenants) { limits_.Configure(tenants); }
  absl::StatusOr<TenantLimits::Lease> Admit(int64_t tokens, absl::Duration after) {
    return limits_.TryAdmit("a", tokens, kBegin + after);
  }
  // Seconds the refused client is told to wait, 0 when it was admitted (and the lease is kept).
  int64_t RefusedFor(int64_t tokens, absl::Duration after) {
    auto lease = Admit(tokens, after);
    if (lease.ok()) {
      leases_.push_back(*std::move(lease));
      return 0;
    }
    EXPECT_EQ(lease.status().code(), absl::StatusCode::kResourceExhausted);
    return RetryAfterOf(lease.status()).value_or(-1);
  }

  Metrics metrics_{{"m"}};
  TenantLimits limits_{metrics_};
  std::vector<TenantLimits::Lease> leases_;
};

TEST_F(TenantLimitsTest, PlacesComeBackWithTheLease) {
  Configure({MakeTenant("a", 2, 0)});
  auto first = Admit(10, absl::ZeroDuration());
  auto second = Admit(10, absl::ZeroDuration());
  ASSERT_TRUE(first.ok() && second.ok());
  const auto third = Admit(10, absl::ZeroDuration());
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(third.status().message()), HasSubstr("requests_in_flight"));
  EXPECT_EQ(RetryAfterOf(third.status()), 1);
  EXPECT_THAT(
      metrics_.Expose(),
      HasSubstr("tessera_tenant_refusals_total{limit=\"requests_in_flight\",tenant=\"a\"} 1"));
  first->Release(3);
  first->Release(3);  // once only
  EXPECT_FALSE(first->held());
  {
    auto again = Admit(10, absl::ZeroDuration());
    ASSERT_TRUE(again.ok());
    TenantLimits::Lease moved = *std::move(again);
    EXPECT_EQ(RefusedFor(1, absl::ZeroDuration()), 1);
  }  // the destructor gives the place back too
  EXPECT_EQ(RefusedFor(1, absl::ZeroDuration()), 0);
  EXPECT_EQ(RefusedFor(1, absl::ZeroDuration()), 1);
}

TEST_F(TenantLimitsTest, TheWaitForTokensIsExact) {
  Configure({MakeTenant("a", 0, 600)});  // 10 per second
  EXPECT_EQ(RefusedFor(600, absl::ZeroDuration()), 0);
  EXPECT_EQ(RefusedFor(250, absl::ZeroDuration()), 25);
  EXPECT_EQ(RefusedFor(255, absl::ZeroDuration()), 26);  // whole seconds, upwards
  EXPECT_EQ(RefusedFor(250, absl::Seconds(24)), 1);
  EXPECT_EQ(RefusedFor(250, absl::Seconds(25) - absl::Nanoseconds(1)), 1);
  EXPECT_EQ(RefusedFor(250, absl::Seconds(25)), 0);
  EXPECT_EQ(RefusedFor(1, absl::Seconds(25)), 1);
  // A long rest saves up one minute's worth and no more.
  EXPECT_EQ(RefusedFor(600, absl::Hours(5)), 0);
  EXPECT_EQ(RefusedFor(10, absl::Hours(5)), 1);
  EXPECT_THAT(Admit(10, absl::Hours(5)).status().message(), HasSubstr("tokens_per_minute of 600"));
}

TEST_F(TenantLimitsTest, WhatWasNotUsedIsGivenBack) {
  Configure({MakeTenant("a", 0, 600)});
  auto lease = Admit(600, absl::ZeroDuration());
  ASSERT_TRUE(lease.ok());
  lease->Release(100);
  EXPECT_EQ(RefusedFor(500, absl::ZeroDuration()), 0);
  EXPECT_EQ(RefusedFor(10, absl::ZeroDuration()), 1);
  // Giving back to a bucket that is full again adds nothing.
  auto late = Admit(600, absl::Minutes(10));
  ASSERT_TRUE(late.ok());
  absl::StatusOr<TenantLimits::Lease> next = Admit(600, absl::Minutes(11));
  ASSERT_TRUE(next.ok());
  late->Release(0);
  next->Release(0);
  EXPECT_EQ(RefusedFor(600, absl::Minutes(11)), 0);
  EXPECT_EQ(RefusedFor(10, absl::Minutes(11)), 1);
}

TEST_F(TenantLimitsTest, MoreThanAMinutesWorthIsAdmittedOnceAndPaidFor) {
  Configure({MakeTenant("a", 0, 600)});
  EXPECT_EQ(RefusedFor(1800, absl::ZeroDuration()), 0);  // two minutes of debt
  EXPECT_EQ(RefusedFor(1800, absl::ZeroDuration()), 180);
  EXPECT_EQ(RefusedFor(10, absl::ZeroDuration()), 121);
  EXPECT_EQ(RefusedFor(10, absl::Seconds(121)), 0);
}

TEST_F(TenantLimitsTest, AReloadKeepsWhatIsHeldAndOwed) {
  Configure({MakeTenant("a", 2, 600), MakeTenant("b", 1, 0)});
  EXPECT_EQ(RefusedFor(600, absl::ZeroDuration()), 0);
  Configure({MakeTenant("a", 1, 600)});
  EXPECT_EQ(RefusedFor(1, absl::Minutes(2)), 1);  // the place is still taken
  leases_.clear();
  EXPECT_EQ(RefusedFor(1, absl::Minutes(2)), 0);
  EXPECT_EQ(limits_.TryAdmit("b", 1, kBegin).status().code(), absl::StatusCode::kUnauthenticated);
  Configure({});
  EXPECT_EQ(Admit(1, absl::ZeroDuration()).status().code(), absl::StatusCode::kUnauthenticated);
  leases_.clear();  // of a tenant that is gone
}

TEST_F(TenantLimitsTest, ALeaseMayOutliveTheLimits) {
  TenantLimits::Lease lease;
  {
    TenantLimits limits(metrics_);
    limits.Configure(std::vector<Tenant>{MakeTenant("a", 1, 60)});
    lease = *limits.TryAdmit("a", 5, kBegin);
  }
  lease.Release(1);
  EXPECT_FALSE(lease.held());
}

// Against a bucket that counts tokens: over random lives the two agree on every answer.
TEST_F(TenantLimitsTest, AgreesWithABucketOfTokens) {
  const uint64_t seed = 20261122;
  RecordProperty("seed", static_cast<int>(seed));
  std::mt19937_64 random(seed);
  constexpr int64_t kPerMinute = 6000;  // 100 per second: all steps below are whole tokens
  Configure({MakeTenant("a", 0, kPerMinute)});
  double level = kPerMinute;
  int64_t ms = 0;
  std::vector<std::pair<TenantLimits::Lease, int64_t>> open;
  int admitted = 0;
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    const int64_t step = static_cast<int64_t>(random() % 20) * 50;
    ms += step;
    level = std::min<double>(kPerMinute, level + static_cast<double>(step) / 10);
    if (!open.empty() && random() % 2 == 0) {
      const size_t which = random() % open.size();
      const int64_t used = static_cast<int64_t>(random() % (open[which].second + 1));
      open[which].first.Release(used);
      level = std::min<double>(kPerMinute, level + static_cast<double>(open[which].second - used));
      open.erase(open.begin() + static_cast<std::ptrdiff_t>(which));
    }
    const int64_t tokens = 1 + static_cast<int64_t>(random() % 400);
    auto lease = Admit(tokens, absl::Milliseconds(ms));
    // Durations have a resolution of a quarter of a nanosecond.
    if (std::abs(level - static_cast<double>(tokens)) > 1e-3) {
      ASSERT_EQ(lease.ok(), level > static_cast<double>(tokens)) << "round " << i << " " << level;
    }
    lease.ok() ? ++admitted : ++refused;
    if (!lease.ok()) continue;
    level -= static_cast<double>(tokens);
    open.emplace_back(*std::move(lease), tokens);
    if (open.size() > 20) open.erase(open.begin());  // used up whole
  }
  EXPECT_GT(admitted, 1000);
  EXPECT_GT(refused, 1000);
}

TEST_F(TenantLimitsTest, ManyThreadsNeverExceedThePlaces) {
  constexpr int64_t kPlaces = 3;
  Configure({MakeTenant("a", kPlaces, 0)});
  std::atomic<int64_t> held{0};
  std::atomic<int64_t> most{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int n = 0; n < 2000; ++n) {
        if (i == 0 && n % 100 == 0) limits_.Configure({MakeTenant("a", kPlaces, 0)});
        auto lease = limits_.TryAdmit("a", 5, kBegin);
        if (!lease.ok()) continue;
        const int64_t now_held = ++held;
        int64_t seen = most.load();
        while (now_held > seen && !most.compare_exchange_weak(seen, now_held)) {
        }
        --held;
        lease->Release(n % 5);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most, kPlaces);
  EXPECT_GE(most, 1);
  for (int64_t i = 0; i < kPlaces; ++i) EXPECT_EQ(RefusedFor(1, absl::ZeroDuration()), 0);
  EXPECT_EQ(RefusedFor(1, absl::ZeroDuration()), 1);
}

}  // namespace
}  // namespace tessera
