// See the header.

#include "coordinator/sched/work.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace tessera {
namespace {

using cluster::v1::DeviceInterval;
using cluster::v1::StepResult;

// No more than the whole step, whatever a rank says.
uint64_t CollectiveNs(const StepResult& result) {
  uint64_t sum = 0;
  for (const DeviceInterval& interval : result.intervals()) {
    if (interval.kind() == DeviceInterval::COLLECTIVE) sum += interval.duration_ns();
  }
  return std::min(sum, result.step_ns());
}

}  // namespace

double SharedSeconds(absl::Span<const StepResult> ranks) {
  uint64_t exchange_ns = std::numeric_limits<uint64_t>::max();  // the slowest rank waits for nobody
  for (const StepResult& result : ranks) exchange_ns = std::min(exchange_ns, CollectiveNs(result));
  double seconds = 0;
  for (const StepResult& result : ranks) {
    const uint64_t waited_ns = CollectiveNs(result) - exchange_ns;
    seconds += static_cast<double>(result.step_ns() - waited_ns) * 1e-9;
  }
  return seconds;
}

RowShares ShareOut(double seconds, const StepCost::Terms& cost, size_t rows, double tokens,
                   double attended) {
  TESSERA_CHECK(rows > 0 && tokens >= static_cast<double>(rows));
  const double whole = cost.fixed + cost.per_token * tokens + cost.per_pair * attended;
  if (whole <= 0) return {.per_row = 0, .per_token = seconds / tokens, .per_pair = 0};
  const double scale = seconds / whole;
  return {.per_row = scale * cost.fixed / static_cast<double>(rows),
          .per_token = scale * cost.per_token,
          .per_pair = scale * cost.per_pair};
}

}  // namespace tessera
