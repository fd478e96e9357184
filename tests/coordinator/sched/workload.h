// A random life of a scheduler: requests, cancels, stops, deadlines, groups that come, answer, fail
// and go, over tiny pools. Everything follows from the seed. Every step is checked; what is wrong
// is collected.
//
// Faults may be planted between the scheduler and its surroundings, to prove that the checks notice
// them.

#ifndef TESSERA_TESTS_COORDINATOR_SCHED_WORKLOAD_H_
#define TESSERA_TESTS_COORDINATOR_SCHED_WORKLOAD_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/sched/scheduler.h"
#include "tests/coordinator/sched/fake_ranks.h"
#include "tests/coordinator/sched/request_log.h"

namespace tessera::testing {

struct Faults {
  std::function<void(cluster::v1::StepPlan&)> plan;          // before the ranks see it
  std::function<void(StepDone&)> done;                       // before the scheduler sees it
  std::function<void(std::vector<RequestUpdate>&)> updates;  // before the log sees them
};

class Workload {
 public:
  explicit Workload(uint64_t seed, Faults faults = {});

  // Runs to the end; empty when everything was right.
  std::vector<std::string> Run();

  const RequestLog& log() const { return log_; }
  uint64_t losses() const { return losses_; }
  uint64_t plans() const { return plans_; }

 private:
  struct Group {
    GroupReady ready;  // as it was or will be announced
    bool is_ready = false;
    std::unique_ptr<FakeRanks> ranks;
    StepDone last_done;  // for stale replays
  };

  uint64_t Below(uint64_t n) { return random_() % n; }
  bool Chance(uint64_t percent) { return Below(100) < percent; }
  SchedulerOptions MakeOptions();
  std::shared_ptr<const Request> MakeRequest();
  std::vector<absl::StatusCode> Refusals(const Request& request) const;

  void Turn();  // Schedule, submit, take updates, check
  void DoRandomThing();
  void SubmitRequest();
  void CancelOne();
  void StopOne();
  void FinishStep(Group& group);
  void ToggleGroup(Group& group);
  void ReplayStale(Group& group);
  void FinishEverything();
  void CheckPins();
  void CheckOrder();

  std::mt19937_64 random_;
  const Faults faults_;
  std::vector<std::string> violations_;
  const SchedulerOptions options_;
  RequestLog log_;
  Scheduler scheduler_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  std::vector<Group> groups_;
  RequestId next_id_ = 1;
  bool draining_ = false;
  uint64_t losses_ = 0;
  uint64_t plans_ = 0;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_COORDINATOR_SCHED_WORKLOAD_H_
