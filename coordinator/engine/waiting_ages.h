// For how long the oldest request of each model has waited: the gauge that says that something is
// stuck while queues look short. Engine thread only.

#ifndef TESSERA_COORDINATOR_ENGINE_WAITING_AGES_H_
#define TESSERA_COORDINATOR_ENGINE_WAITING_AGES_H_

#include <cstdint>
#include <map>
#include <set>

#include "absl/time/time.h"
#include "base/check.h"
#include "coordinator/telemetry/metrics.h"

namespace tessera {

class WaitingAges {
 public:
  explicit WaitingAges(Metrics& metrics) : metrics_(metrics) {}

  void Begin(uint32_t model, absl::Time arrival) { arrivals_[model].insert(arrival); }
  // It runs, or has ended without.
  void End(uint32_t model, absl::Time arrival) {
    std::multiset<absl::Time>& waiting = arrivals_[model];
    const auto found = waiting.find(arrival);
    TESSERA_CHECK(found != waiting.end()) << "no request of model " << model << " waits since then";
    waiting.erase(found);
  }
  void Tell(absl::Time now) {
    for (const auto& [model, waiting] : arrivals_) {
      const absl::Duration age = waiting.empty() ? absl::ZeroDuration() : now - *waiting.begin();
      metrics_.model(model).oldest_waiting->Set(absl::ToDoubleSeconds(age));
    }
  }

 private:
  Metrics& metrics_;
  std::map<uint32_t, std::multiset<absl::Time>> arrivals_;  // of those that wait, by model
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ENGINE_WAITING_AGES_H_
