// What one request used, from its arrival to its last row: the line in the usage log, the cost that
// its client is told, and what the admin API sums up. A plain value.

#ifndef TESSERA_COORDINATOR_LEDGER_BOOK_USAGE_RECORD_H_
#define TESSERA_COORDINATOR_LEDGER_BOOK_USAGE_RECORD_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "coordinator/sched/request.h"
#include "coordinator/sched/work.h"

namespace tessera {

struct UsageRecord {
  std::string request_id;  // as the client was told
  std::string tenant;
  std::string model;
  std::string adapter;  // empty: none
  absl::Time arrival;
  absl::Time finished;
  FinishReason reason = FinishReason::kStop;
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;  // of the prompt
  uint32_t output_tokens = 0;  // of all choices
  Work work;                   // GPU-seconds
  double energy_joules = 0;    // the devices' share of it, at their rated power
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_BOOK_USAGE_RECORD_H_
