// GPU-seconds and what they were spent on, and how those of a step are split over its rows. Pure;
// engine thread.

#ifndef TESSERA_COORDINATOR_SCHED_WORK_H_
#define TESSERA_COORDINATOR_SCHED_WORK_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "coordinator/sched/step_cost.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

enum class WorkKind : uint8_t {
  kPrefill,    // prompt tokens, the first time
  kDecode,     // output tokens
  kRecompute,  // tokens whose KV was lost by a preemption or with a group
  kOverrun,    // past an end that nobody knew of yet
};
inline constexpr size_t kNumWorkKinds = 4;

// GPU-seconds by kind: the time of a step counts once for every rank that took part.
struct Work {
  std::array<double, kNumWorkKinds> seconds = {};

  double& operator[](WorkKind kind) { return seconds[static_cast<size_t>(kind)]; }
  double operator[](WorkKind kind) const { return seconds[static_cast<size_t>(kind)]; }
  Work& operator+=(const Work& other) {
    for (size_t i = 0; i < kNumWorkKinds; ++i) seconds[i] += other.seconds[i];
    return *this;
  }
  double total() const {
    double sum = 0;
    for (const double one : seconds) sum += one;
    return sum;
  }
};

// What the rows of a step have to share: the time of all ranks, without that in which ranks that
// were done waited in collectives for the slowest one.
double SharedSeconds(absl::Span<const cluster::v1::StepResult> ranks);

// The share of a row: of what a step costs whatever is in it (the stream of the weights) as much as
// every other row, and what its tokens and the KV cache they read add. The shares of all rows sum
// up to the step.
struct RowShares {
  double per_row = 0;    // GPU-seconds
  double per_token = 0;  // per token that is computed
  double per_pair = 0;   // per query-key pair, see AttendedPairs

  double Of(int64_t start, int64_t tokens) const {
    return per_row + per_token * static_cast<double>(tokens) +
           per_pair * AttendedPairs(start, tokens);
  }
};

// `seconds` split in proportion to `cost`; until that is known, by tokens. `rows`, `tokens` and
// `attended` are those of the whole step, with at least one row.
RowShares ShareOut(double seconds, const StepCost::Terms& cost, size_t rows, double tokens,
                   double attended);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_WORK_H_
