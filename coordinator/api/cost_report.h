// What a client is told of the cost of its request: headers, trailers, usage.cost. The one place
// for the names; any thread.

#ifndef TESSERA_COORDINATOR_API_COST_REPORT_H_
#define TESSERA_COORDINATOR_API_COST_REPORT_H_

#include <string>
#include <utility>
#include <vector>

#include "coordinator/ledger/cost.h"
#include "coordinator/sched/work.h"

namespace tessera::api {

// gRPC metadata by which a call asks for Usage.cost.
inline constexpr char kIncludeCostMetadata[] = "x-tessera-include-cost";

struct CostReport {
  Cost cost;
  Work work;  // GPU-seconds
  double energy_joules = 0;

  double billed_seconds() const { return work[WorkKind::kPrefill] + work[WorkKind::kDecode]; }
};

// x-tessera-cost, -cost-currency ("none": no price is known, and the cost is 0 for that) and
// -gpu-seconds, as plain decimals.
std::vector<std::pair<std::string, std::string>> CostHeaders(const CostReport& report);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_COST_REPORT_H_
