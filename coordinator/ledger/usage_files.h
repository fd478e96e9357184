// The files of a usage log: their names, and reading them as a stream while they may be written to.
// usage-20261122-0001.jsonl holds what was written on that day (UTC); a day has as many files as it
// needs. Any thread.

#ifndef TESSERA_COORDINATOR_LEDGER_USAGE_FILES_H_
#define TESSERA_COORDINATOR_LEDGER_USAGE_FILES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "coordinator/ledger/usage_entry.h"

namespace tessera {

inline constexpr int kUsageFilesPerDayMax = 999'999;
inline constexpr size_t kUsageFilesMax = 1'000'000;

struct UsageFileName {
  absl::CivilDay day;  // UTC
  int number = 1;

  std::string ToString() const;
  friend bool operator<(const UsageFileName& a, const UsageFileName& b) {
    return a.day != b.day ? a.day < b.day : a.number < b.number;
  }
  friend bool operator==(const UsageFileName& a, const UsageFileName& b) {
    return a.day == b.day && a.number == b.number;
  }
};

// False for what is no usage file's name.
bool ParseUsageFileName(std::string_view text, UsageFileName* name);
// Oldest first. NOT_FOUND for a directory that is not there.
absl::StatusOr<std::vector<UsageFileName>> ListUsageFiles(const std::string& dir);

// Where to go on reading: behind an entry.
struct UsagePosition {
  UsageFileName file;
  uint64_t offset = 0;  // bytes

  std::string ToString() const;  // "usage-20261122-0001.jsonl:4711"
};
absl::StatusOr<UsagePosition> ParseUsagePosition(std::string_view text);

struct UsageRange {
  absl::Time since = absl::InfinitePast();    // entries that finished then or later
  absl::Time until = absl::InfiniteFuture();  // and before
  UsagePosition from;                         // and lie behind this
};

struct UsageReadResult {
  uint64_t damaged_lines = 0;  // that were passed over
  std::string first_damage;    // "usage-...jsonl, byte 4711: has no usable field `cost`"
  bool stopped = false;        // by the visitor, or because time was up
};

// Shows every entry of the range to `visit`, oldest file first, until that says false. A last line
// that is still being written is not shown. Ends at `deadline` (real time) with DEADLINE_EXCEEDED.
absl::StatusOr<UsageReadResult> ReadUsageFiles(
    const std::string& dir, const UsageRange& range, absl::Time deadline,
    const std::function<bool(UsageEntry entry, const UsagePosition& behind)>& visit);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_USAGE_FILES_H_
