// The clients of one life: requests of every kind the contract knows, drawn from the seed, sent
// over a span of time; some go away again, tenants change, and the server may begin to drain.

#ifndef TESSERA_TESTS_SIMULATION_WORKLOAD_H_
#define TESSERA_TESTS_SIMULATION_WORKLOAD_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "coordinator/sched/request.h"
#include "coordinator/sim/random.h"
#include "coordinator/sim/simulation.h"
#include "tests/simulation/request_book.h"
#include "tests/simulation/scenario.h"
#include "tests/simulation/text_side.h"

namespace tessera::simulation {

inline constexpr int64_t kAnswerTokensMax = 40;  // Request::max_tokens of everybody

class Workload {
 public:
  // References must outlive the workload.
  Workload(const Scenario& scenario, sim::Simulation& simulation, RequestBook& book, TextSide& text,
           sim::Random random);

  // Everything it will do is put into the simulation's queue.
  void Start();
  void ChangeTenants();
  // No new request comes any more that has not come yet; for the end of a life.
  bool all_sent() const { return sent_ == scenario_.workload.requests; }

 private:
  void SendOne();
  std::shared_ptr<Request> DrawRequest();
  uint64_t DrawTenant();
  void DrawPrompt(Request& request, int64_t context_max);
  void DrawSampling(Request& request, int64_t context_max);
  void DrawParameters(SamplingParams& sampling);
  void DrawCache(Request& request);
  StopStrings DrawStops();
  int32_t DrawTokenId() { return static_cast<int32_t>(random_.Below(64)); }

  const Scenario& scenario_;
  sim::Simulation& simulation_;
  RequestBook& book_;
  TextSide& text_;
  sim::Random random_;
  std::vector<std::vector<int32_t>> templates_;
  RequestId next_id_ = 1;
  int sent_ = 0;
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_WORKLOAD_H_
