// Who waits for one model, and whose turn it is. Tenants share the capacity by what they have used:
// a virtual token counter (Sheng et al., "Fairness in Serving Large Language Models", 2024) grows
// with the tokens computed for a tenant and the KV cache it holds, divided by its weight; the one
// with the lowest counter is next. Priorities go first, and waiting raises them, up to the highest
// that waits: a request is overtaken by higher ones for a bounded time only, and within one level
// nobody can push a tenant aside by sending more. Engine thread only.

#ifndef TESSERA_COORDINATOR_SCHED_FAIR_QUEUE_H_
#define TESSERA_COORDINATOR_SCHED_FAIR_QUEUE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/sched/event.h"
#include "coordinator/sched/sequence.h"
#include "coordinator/sched/work.h"

namespace tessera {

// Cost of a token that is drawn, in tokens that are computed in a prompt's chunk; and of holding
// 16 Ki tokens of KV cache during a row. What Sheng et al. call w_q / w_p, and the attention's
// part.
inline constexpr double kSampleCost = 2.0;
inline constexpr double kHeldTokenCost = 1.0 / 16384;

struct TenantState {
  using Waiting = std::map<std::pair<uint64_t, uint32_t>, Sequence*>;  // by ticket and choice

  std::string name;
  double rate = 1;  // of `used` per token: 1 / weight
  double kv_share = 1;
  double used = 0;          // the virtual counter, in weighted tokens
  Work work;                // since the start, as far as it is settled
  int64_t num_running = 0;  // sequences
  // Positions in the tables of its sequences that are kept, shared ones included.
  int64_t held_tokens = 0;
  std::map<int, Waiting, std::greater<int>> waiting;  // by priority, highest first; none empty

  bool active() const { return num_running > 0 || !waiting.empty(); }
};

class FairQueue {
 public:
  explicit FairQueue(absl::Duration ageing) : ageing_(ageing) {}

  // Tenants that are not listed have the defaults from now on.
  void SetTenants(absl::Span<const TenantPolicy> policies);
  // The tenant of that name, made when it is new. Stays where it is.
  TenantState& Tenant(const std::string& name);

  void Push(Sequence& sequence);      // of a new request
  void PushBack(Sequence& sequence);  // that was out for a while
  void Erase(Sequence& sequence);
  // Whose turn it is, null when nobody waits. `borrows`: with this sequence its tenant would hold
  // more than its share; it comes after all others.
  Sequence* Next(absl::Time now, const std::function<bool(const Sequence&)>& borrows) const;
  // Priority with ageing, among those that wait.
  int Level(const Sequence& sequence, absl::Time now) const;
  // The tenant has used so many (unweighted) tokens.
  static void Charge(TenantState& tenant, double tokens) { tenant.used += tokens * tenant.rate; }

  const std::map<std::string, TenantState>& tenants() const { return tenants_; }
  // In order of priority and arrival, tenant by tenant; for the rare look at everyone.
  std::vector<Sequence*> All() const;
  int64_t size() const { return size_; }
  int64_t waiting_tokens() const { return waiting_tokens_; }  // that those owe

 private:
  int HighestPriority() const;
  int LevelBelow(int highest, const Sequence& sequence, absl::Time now) const;

  const absl::Duration ageing_;
  std::map<std::string, TenantState> tenants_;
  int64_t size_ = 0;
  int64_t waiting_tokens_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_FAIR_QUEUE_H_
