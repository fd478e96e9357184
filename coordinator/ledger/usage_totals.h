// Usage records added up: by tenant, model, adapter, device and day, as asked. Bounded; pure.

#ifndef TESSERA_COORDINATOR_LEDGER_USAGE_TOTALS_H_
#define TESSERA_COORDINATOR_LEDGER_USAGE_TOTALS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/ledger/usage_entry.h"

namespace tessera {

// Rows of one total; what comes later is counted in one row whose every field is kOtherRow.
inline constexpr size_t kUsageRowsMax = 10'000;
inline constexpr char kOtherRow[] = "other";

struct UsageSums {
  uint64_t requests = 0;
  uint64_t unpriced_requests = 0;  // their cost is not known, and not in the sums of money
  uint64_t prompt_tokens = 0;
  uint64_t served_prompt_tokens = 0;  // of these: of requests that ran at all
  uint64_t cached_tokens = 0;         // of the prompts
  uint64_t output_tokens = 0;
  Work work;  // GPU-seconds
  double energy_joules = 0;
  Cost cost;  // of requests that have a price

  void Add(const UsageEntry& entry);
  void Add(const UsageSums& other);

  // What somebody got something for: a prompt that died in the queue is no token of anything.
  uint64_t tokens() const { return served_prompt_tokens + output_tokens; }
  uint64_t computed_prompt_tokens() const { return served_prompt_tokens - cached_tokens; }
};

enum class UsageField { kTenant, kModel, kAdapter, kDevice, kDay };
const char* UsageFieldName(UsageField field);
// "tenant" or "tenant,day"; INVALID_ARGUMENT names what there is.
absl::StatusOr<std::vector<UsageField>> ParseUsageFields(std::string_view text);

class UsageTotals {
 public:
  // One value per field, and the currency last: money of two currencies is never added.
  using Key = std::vector<std::string>;

  explicit UsageTotals(std::vector<UsageField> by) : by_(std::move(by)) {}

  void Add(const UsageEntry& entry);
  // Every row of totals that were made by at least the fields of these.
  void Add(const UsageTotals& finer);
  const std::vector<UsageField>& by() const { return by_; }
  const std::map<Key, UsageSums>& rows() const { return rows_; }

 private:
  UsageSums& RowOf(Key key);

  const std::vector<UsageField> by_;
  std::map<Key, UsageSums> rows_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_USAGE_TOTALS_H_
