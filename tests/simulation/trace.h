// The story of one life: a hash over everything that went into the scheduler and came out of it,
// and, when somebody wants to read it, one line for each.

#ifndef TESSERA_TESTS_SIMULATION_TRACE_H_
#define TESSERA_TESTS_SIMULATION_TRACE_H_

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/cluster/notice.h"
#include "coordinator/sched/event.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera::simulation {

class Trace {
 public:
  // Lines go to `out`, nowhere if null.
  explicit Trace(std::FILE* out) : out_(out) {}

  void Add(const Event& event, absl::Time now);
  void Add(const cluster::v1::StepPlan& plan, absl::Time now);
  void Add(const RequestUpdate& update, absl::Time now);
  void Add(const Notice& notice, absl::Time now);
  void Say(const std::string& text, absl::Time now);
  uint64_t hash() const { return hash_; }

 private:
  void Hash(uint64_t value);
  template <typename Column>
  void HashAll(const Column& column);
  void HashResult(const cluster::v1::StepResult& result);

  std::FILE* const out_;
  uint64_t hash_ = 0;
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_TRACE_H_
