// Lives many seeds in child processes, one per core, so that a life that crashes or hangs takes
// only itself along and is still told with its seed. Children take the next seed from shared memory
// and write a record of each life into a pipe.

#ifndef TESSERA_TESTS_SIMULATION_RUNNER_H_
#define TESSERA_TESTS_SIMULATION_RUNNER_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "tests/simulation/life.h"

namespace tessera::simulation {

struct RunnerOptions {
  uint64_t first = 1;
  uint64_t seeds = 1;
  int processes = 1;
  // Real time after which a life hangs.
  double seconds_per_life_max = 60;
};

// `live` runs in a child, `take` here, for every seed once, in the order in which they finish. It
// says whether to go on. A crash is a report with one violation of Checker::kCrash.
void RunSeeds(const RunnerOptions& options, const std::function<LifeReport(uint64_t seed)>& live,
              const std::function<bool(const LifeReport&)>& take);

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_RUNNER_H_
