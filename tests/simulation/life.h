// One seed's life from start to end: the simulation, its clients, its faults and everything that
// watches. Safety phase with faults, then none, and everything must end in bounded virtual time.

#ifndef TESSERA_TESTS_SIMULATION_LIFE_H_
#define TESSERA_TESTS_SIMULATION_LIFE_H_

#include <cstdint>
#include <cstdio>
#include <vector>

#include "absl/time/time.h"
#include "tests/simulation/violations.h"

namespace tessera::simulation {

// What happened, for the summary and to know that the lives are worth living.
struct LifeCounts {
  uint64_t events = 0;  // of the simulation
  uint64_t plans = 0;
  uint64_t rows = 0;
  uint64_t group_losses = 0;
  uint64_t faults = 0;
  uint64_t computed_tokens = 0;
  uint64_t recomputed_tokens = 0;
  uint64_t overrun_tokens = 0;
  uint64_t prefix_hit_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t copies = 0;
  uint64_t comparisons = 0;  // of tenants that both waited
  uint64_t text_stops = 0;
  uint64_t repeated = 0;  // lives that were lived twice
  uint64_t ends[6] = {};  // requests, by FinishReason

  void Add(const LifeCounts& other);
};

struct LifeReport {
  uint64_t seed = 0;
  std::vector<Violation> violations;
  uint64_t trace_hash = 0;
  absl::Duration virtual_time;
  LifeCounts counts;
};

// The story goes to `trace`, nowhere if null.
LifeReport RunLife(uint64_t seed, std::FILE* trace);

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_LIFE_H_
