// Where the ranks of a group meet: a step's collectives end on every rank when the last one has
// come. A rank that never comes keeps the others waiting.

#ifndef TESSERA_COORDINATOR_SIM_FABRIC_H_
#define TESSERA_COORDINATOR_SIM_FABRIC_H_

#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

namespace tessera::sim {

class Fabric {
 public:
  // A rank has computed its part of the step; `proceed` is called, from here or from a later
  // Arrive, once `ranks` of them have.
  void Arrive(uint64_t epoch, uint64_t step, uint32_t ranks, std::function<void()> proceed) {
    // One count of epochs for all groups; steps that nobody can finish any more are dropped with
    // the epochs well behind.
    if (epoch > kEpochsKept) {
      meetings_.erase(meetings_.begin(), meetings_.lower_bound({epoch - kEpochsKept, 0}));
    }
    std::vector<std::function<void()>>& waiting = meetings_[{epoch, step}];
    waiting.push_back(std::move(proceed));
    if (waiting.size() < ranks) return;
    const std::vector<std::function<void()>> all = std::move(waiting);
    meetings_.erase({epoch, step});
    for (const auto& go : all) go();
  }

 private:
  static constexpr uint64_t kEpochsKept = 64;

  std::map<std::pair<uint64_t, uint64_t>, std::vector<std::function<void()>>> meetings_;
};

}  // namespace tessera::sim

#endif  // TESSERA_COORDINATOR_SIM_FABRIC_H_
