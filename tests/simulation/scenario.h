// What one life is made of, drawn from its seed: models, pools, limits, workers, times, and which
// faults are on and how often (swarm: every seed leaves some kinds out, so that each also shows
// without the others).

#ifndef TESSERA_TESTS_SIMULATION_SCENARIO_H_
#define TESSERA_TESTS_SIMULATION_SCENARIO_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/sim/random.h"
#include "coordinator/sim/simulation.h"

namespace tessera::simulation {

// How often things go wrong; zero: never in this life.
struct FaultRates {
  // Per second of the fault phase, somewhere in the cluster:
  double kill = 0;
  double vanish = 0;  // the whole host: its streams break only after the keepalive
  double pause = 0;
  double slow = 0;   // a worker computes 100 times as slowly for a while
  double stale = 0;  // results and plans of an earlier life arrive
  double load_failure = 0;
  double reload = 0;  // every worker restarts, tenants are told anew
  // Per message of each kind:
  double drop = 0;
  double duplicate = 0;
  double overtake = 0;
  double delay = 0;
  absl::Duration delay_max;
  // Per step of a rank:
  double out_of_memory = 0;
};

struct WorkloadShape {
  int requests = 20;
  absl::Duration span;  // over which they come
  int tenants = 1;
  int templates = 3;       // beginnings that prompts share
  int priorities = 0;      // from minus this to this
  bool latecomer = false;  // the first tenant sends nothing in the first half, and most later
  bool shares = false;     // some tenants have less than the whole KV cache
  double deadline = 0;     // share of requests, as the following
  double disconnect = 0;
  double failing_logits = 0;
  double stop_strings = 0;
  double several_choices = 0;
  double logprobs = 0;
  double prompt_logprobs = 0;
  double penalties = 0;
  double no_cache = 0;          // opted out of the prefix cache
  double continues = 0;         // the prompt is an earlier request with its answer
  absl::Duration text_latency;  // mean
  double slow_reader = 0;
  double tenant_change = 0;  // per second
  double drain = 0;          // probability, late in the fault phase
};

struct Scenario {
  sim::SimulationOptions simulation;
  WorkloadShape workload;
  FaultRates faults;
  absl::Duration fault_phase;

  static Scenario Draw(uint64_t seed);
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_SCENARIO_H_
