// Questions about usage and their answers as JSON, CSV or a table: what `tessera usage` and the
// admin API have in common. Any thread; reading takes as long as the files are large.

#ifndef TESSERA_COORDINATOR_LEDGER_USAGE_REPORT_H_
#define TESSERA_COORDINATOR_LEDGER_USAGE_REPORT_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/ledger/usage_files.h"
#include "coordinator/ledger/usage_totals.h"

namespace tessera {

inline constexpr uint64_t kUsageRequestsMax = 10'000;  // single requests in one answer
inline constexpr uint64_t kUsageRequestsDefault = 1000;

enum class UsageFormat { kJson, kCsv, kTable };

struct UsageQuery {
  std::vector<UsageField> by;  // empty: single requests
  UsageRange range;
  UsageFormat format = UsageFormat::kJson;
  uint64_t limit = kUsageRequestsDefault;  // of single requests
};

// From by, since, until, format, limit and from, as strings; what is not there keeps its default.
// INVALID_ARGUMENT names the parameter. since and until: a time ("2026-11-22T10:00:00Z"), a day
// ("2026-11-22", UTC), or how long ago ("90m", "24h", "7d").
absl::StatusOr<UsageQuery> ParseUsageQuery(const std::map<std::string, std::string>& params,
                                           absl::Time now);
absl::StatusOr<absl::Time> ParseUsageTime(std::string_view text, absl::Time now);

// What an answer says beside its rows.
struct UsageNotes {
  uint64_t damaged_lines = 0;
  std::string first_damage = {};
  uint64_t waiting = 0;   // entries that the log has taken and not written yet: not in the answer
  std::string next = {};  // where single requests go on; empty: these were all
  absl::Time complete_since = absl::InfinitePast();  // nothing from before is kept
};

struct UsageAnswer {
  std::string text;
  UsageNotes notes;
};

// From the files of a usage log.
absl::StatusOr<UsageAnswer> ReportUsage(const std::string& dir, const UsageQuery& query,
                                        uint64_t waiting, absl::Time deadline);
// The sums of the range, of the files.
absl::StatusOr<UsageTotals> SumUsage(const std::string& dir, std::vector<UsageField> by,
                                     const UsageRange& range, absl::Time deadline,
                                     UsageNotes* notes);
std::string RenderTotals(const UsageTotals& totals, UsageFormat format, const UsageNotes& notes);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_USAGE_REPORT_H_
