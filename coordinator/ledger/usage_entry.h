// A usage record with its price, as the usage log keeps it: one line of JSON. Pure; any thread.

#ifndef TESSERA_COORDINATOR_LEDGER_USAGE_ENTRY_H_
#define TESSERA_COORDINATOR_LEDGER_USAGE_ENTRY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/ledger/book/usage_record.h"
#include "coordinator/ledger/cost.h"

namespace tessera {

// Of the lines this program writes. It reads this and every earlier one.
inline constexpr int kUsageSchema = 1;
inline constexpr size_t kUsageLineBytesMax = 16 << 10;

struct UsageEntry {
  // "18c5a9e1f40-42": the log's run and the entry's number in it. Never given twice.
  std::string id;
  // More than one: a summary of requests of one tenant, model and end, written while the disk was
  // too slow for a line each. It has no request id; its tokens, seconds and money are all theirs.
  uint64_t requests = 1;
  std::string request_id;
  std::string tenant;
  std::string model;
  std::string adapter;
  std::string device;  // that the price is of; empty: not known
  absl::Time arrival;
  absl::Time finished;
  FinishReason reason = FinishReason::kStop;
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;
  uint64_t output_tokens = 0;
  Work work;  // GPU-seconds
  double energy_joules = 0;
  Cost cost;
};

UsageEntry MakeUsageEntry(UsageRecord record, std::string device, Cost cost);
// Makes `sum` the summary of both; they are of one tenant, model, adapter, device, end and
// currency.
void MergeUsage(const UsageEntry& entry, UsageEntry* sum);
// Without a line end.
std::string UsageLine(const UsageEntry& entry);
// INVALID_ARGUMENT for what is no line of a usage log.
absl::StatusOr<UsageEntry> ParseUsageLine(std::string_view line);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_USAGE_ENTRY_H_
