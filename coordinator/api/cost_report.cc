// See the header.

#include "coordinator/api/cost_report.h"

#include "absl/strings/str_format.h"

namespace tessera::api {

std::vector<std::pair<std::string, std::string>> CostHeaders(const CostReport& report) {
  return {{"x-tessera-cost", absl::StrFormat("%.12f", report.cost.total())},
          {"x-tessera-cost-currency", report.cost.currency},
          {"x-tessera-gpu-seconds", absl::StrFormat("%.9f", report.billed_seconds())}};
}

}  // namespace tessera::api
