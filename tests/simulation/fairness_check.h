// Waiting is bounded; measured from outside, by what was planned and told.
//
// Among tenants (after Sheng et al., "Fairness in Serving Large Language Models", 2024): while two
// tenants of a model both have requests waiting, the service they get, divided by their weights,
// never drifts apart by more than
//     U = sum over both of (prompts + answers that one group can hold at once) / weight,
// so a waiting request sees any other tenant get at most its own tenant's service plus U. Service
// is what a prompt owed when it was first planned, and kSampleCost per token told.
//
// Within a tenant: a request is overtaken by at most one group's rows of requests that came later
// and, with what waiting adds to them (one step of priority per `priority_ageing`), never stood
// higher.
//
// Both hold where nobody borrows KV cache (every kv_share is 1); otherwise this looks away.

#ifndef TESSERA_TESTS_SIMULATION_FAIRNESS_CHECK_H_
#define TESSERA_TESTS_SIMULATION_FAIRNESS_CHECK_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "coordinator/sched/scheduler.h"
#include "tessera/cluster/v1/step.pb.h"
#include "tests/simulation/request_book.h"
#include "tests/simulation/violations.h"

namespace tessera::simulation {

class FairnessCheck {
 public:
  // `equal_priorities`: turns between tenants are compared, too.
  FairnessCheck(const SchedulerOptions& options, bool equal_priorities, RequestBook& book,
                Violations& violations)
      : options_(options),
        equal_priorities_(equal_priorities),
        book_(book),
        violations_(violations) {}

  // In the order in which the scheduler is told, plans, and tells.
  void Observe(const Event& event);
  void Observe(const cluster::v1::StepPlan& plan);
  void Observe(const RequestUpdate& update);
  void AfterTurn();
  uint64_t num_comparisons() const { return num_comparisons_; }

 private:
  struct Waiting {
    RequestId request = 0;
    int priority = 0;
    absl::Time arrival;
    bool scores_prompt = false;
    int64_t overtaken = 0;  // by later ones that never stood higher
  };
  struct Tenant {
    double weight = 1;
    double service = 0;                    // weighted, since the start
    std::map<RequestId, Waiting> waiting;  // never planned, in order of arrival
  };
  using Key = std::pair<uint32_t, std::string>;  // model, tenant
  // Two tenants that both wait, since when they do.
  struct Pair {
    bool active = false;
    double least = 0;  // of the difference of their service
    double most = 0;
  };

  void Start(const BookedRequest& booked, int64_t owed);
  // Requests of the tenant wait for certain: more are unplanned than can be admitted.
  bool IsBacklogged(const Tenant& tenant) const;
  double HeldAtOnce(uint32_t model) const;
  void ComparePair(uint32_t model, const std::string& a, const std::string& b);

  const SchedulerOptions& options_;
  const bool equal_priorities_;
  RequestBook& book_;
  Violations& violations_;
  bool looks_ = true;
  uint64_t num_comparisons_ = 0;
  std::map<std::string, double> weights_;
  std::map<Key, Tenant> tenants_;
  std::map<std::pair<Key, Key>, Pair> pairs_;
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_FAIRNESS_CHECK_H_
