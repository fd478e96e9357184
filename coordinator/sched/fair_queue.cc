// Turns between tenants; see fair_queue.h.

#include "coordinator/sched/fair_queue.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "base/check.h"

namespace tessera {
namespace {

// Waiting raises a request by at most so many steps, so that no arithmetic overflows.
constexpr int64_t kAgeMax = 4 * kPriorityMax;

}  // namespace

void FairQueue::SetTenants(absl::Span<const TenantPolicy> policies) {
  for (auto& [name, tenant] : tenants_) {
    tenant.rate = 1;
    tenant.kv_share = 1;
  }
  for (const TenantPolicy& policy : policies) {
    TESSERA_CHECK(policy.weight > 0 && policy.kv_share > 0) << "tenant " << policy.name;
    TenantState& tenant = Tenant(policy.name);
    tenant.rate = 1 / policy.weight;
    tenant.kv_share = policy.kv_share;
  }
}

TenantState& FairQueue::Tenant(const std::string& name) {
  const auto [entry, is_new] = tenants_.try_emplace(name);
  if (is_new) entry->second.name = name;
  return entry->second;
}

void FairQueue::Push(Sequence& sequence) {
  TenantState& tenant = sequence.request->tenant;
  if (!tenant.active()) {
    // Idle time earns nothing: it begins where the least served of the active ones stands, or where
    // all of them had come to.
    double least_active = std::numeric_limits<double>::infinity();
    double most = 0;
    for (const auto& [name, other] : tenants_) {
      if (other.active()) least_active = std::min(least_active, other.used);
      most = std::max(most, other.used);
    }
    tenant.used = std::max(tenant.used, std::min(least_active, most));
  }
  PushBack(sequence);
}

void FairQueue::PushBack(Sequence& sequence) {
  TenantState& tenant = sequence.request->tenant;
  const bool is_new = tenant.waiting[sequence.request->request->priority]
                          .try_emplace({sequence.request->ticket, sequence.choice}, &sequence)
                          .second;
  TESSERA_CHECK(is_new) << "request " << sequence.request->id << " waits twice";
  ++size_;
  waiting_tokens_ += sequence.num_tokens();
}

void FairQueue::Erase(Sequence& sequence) {
  TenantState& tenant = sequence.request->tenant;
  const auto bucket = tenant.waiting.find(sequence.request->request->priority);
  TESSERA_CHECK(bucket != tenant.waiting.end() &&
                bucket->second.erase({sequence.request->ticket, sequence.choice}) == 1)
      << "request " << sequence.request->id << " does not wait";
  if (bucket->second.empty()) tenant.waiting.erase(bucket);
  --size_;
  waiting_tokens_ -= sequence.num_tokens();
}

int FairQueue::HighestPriority() const {
  int highest = -kPriorityMax;
  for (const auto& [name, tenant] : tenants_) {
    if (!tenant.waiting.empty()) highest = std::max(highest, tenant.waiting.begin()->first);
  }
  return highest;
}

int FairQueue::LevelBelow(int highest, const Sequence& sequence, absl::Time now) const {
  const Request& request = *sequence.request->request;
  const absl::Duration waited = std::max(now - request.arrival, absl::ZeroDuration());
  absl::Duration rest;
  const int64_t age = std::min(absl::IDivDuration(waited, ageing_, &rest), kAgeMax);
  return std::min(request.priority + static_cast<int>(age), std::max(highest, request.priority));
}

int FairQueue::Level(const Sequence& sequence, absl::Time now) const {
  return LevelBelow(HighestPriority(), sequence, now);
}

Sequence* FairQueue::Next(absl::Time now,
                          const std::function<bool(const Sequence&)>& borrows) const {
  Sequence* best = nullptr;
  std::tuple<bool, int, double, uint64_t> best_key;  // lower is better
  const int highest = HighestPriority();
  for (const auto& [name, tenant] : tenants_) {
    // The oldest of each priority has aged most.
    for (const auto& [priority, waiting] : tenant.waiting) {
      Sequence& head = *waiting.begin()->second;
      const std::tuple<bool, int, double, uint64_t> key = {
          borrows(head), -LevelBelow(highest, head, now), tenant.used, head.request->ticket};
      if (best != nullptr && key >= best_key) continue;
      best = &head;
      best_key = key;
    }
  }
  return best;
}

std::vector<Sequence*> FairQueue::All() const {
  std::vector<Sequence*> all;
  for (const auto& [name, tenant] : tenants_) {
    for (const auto& [priority, waiting] : tenant.waiting) {
      for (const auto& [key, sequence] : waiting) all.push_back(sequence);
    }
  }
  return all;
}

}  // namespace tessera
