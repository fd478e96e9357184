// How long a step takes on one rank: a + b * tokens + c * kv + d * pairs, times chance. The numbers
// come from measurements of the rank that is simulated, or from what its device can do at best.

#ifndef TESSERA_COORDINATOR_SIM_TIME_MODEL_H_
#define TESSERA_COORDINATOR_SIM_TIME_MODEL_H_

#include <algorithm>

#include "absl/time/time.h"
#include "coordinator/sim/random.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera::sim {

struct StepTimeModel {
  absl::Duration per_step = absl::Milliseconds(5);
  absl::Duration per_token = absl::Microseconds(50);     // computed
  absl::Duration per_kv_token = absl::Nanoseconds(100);  // read by attention, summed over rows
  // Query and key of attention, causal: what long chunks are made of.
  absl::Duration per_pair = absl::ZeroDuration();
  absl::Duration sampling = absl::Microseconds(200);  // after the layers, and collectives alike
  double noise = 0.05;                                // a step takes up to this much more or less

  absl::Duration Compute(const cluster::v1::StepPlan& plan, Random& random) const {
    double tokens = 0;
    double kv_tokens = 0;
    double pairs = 0;
    for (int row = 0; row < plan.sequence_size(); ++row) {
      const double start = plan.start_position(row);
      const double computed = plan.num_new_tokens(row);
      tokens += computed;
      kv_tokens += start + computed;
      pairs += computed * (start + (computed + 1) / 2);
    }
    const absl::Duration mean =
        per_step + per_token * tokens + per_kv_token * kv_tokens + per_pair * pairs;
    return mean * std::max(0.0, 1 + noise * (2 * random.Uniform() - 1));
  }
};

}  // namespace tessera::sim

#endif  // TESSERA_COORDINATOR_SIM_TIME_MODEL_H_
