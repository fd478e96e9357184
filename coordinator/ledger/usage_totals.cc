// See the header.

#include "coordinator/ledger/usage_totals.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/check.h"

namespace tessera {
namespace {

// By UsageField.
constexpr std::array<const char*, 5> kFieldNames = {"tenant", "model", "adapter", "device", "day"};

std::string ValueOf(const UsageEntry& entry, UsageField field) {
  switch (field) {
    case UsageField::kTenant:
      return entry.tenant;
    case UsageField::kModel:
      return entry.model;
    case UsageField::kAdapter:
      return entry.adapter;
    case UsageField::kDevice:
      return entry.device;
    case UsageField::kDay:
      return absl::FormatTime("%Y-%m-%d", entry.finished, absl::UTCTimeZone());
  }
  return "";
}

}  // namespace

const char* UsageFieldName(UsageField field) { return kFieldNames[static_cast<size_t>(field)]; }

absl::StatusOr<std::vector<UsageField>> ParseUsageFields(std::string_view text) {
  std::vector<UsageField> fields;
  for (const absl::string_view name : absl::StrSplit(std::string(text), ',')) {
    const auto found = std::find(kFieldNames.begin(), kFieldNames.end(), name);
    const auto field = static_cast<UsageField>(found - kFieldNames.begin());
    if (found == kFieldNames.end() ||
        std::find(fields.begin(), fields.end(), field) != fields.end()) {
      return absl::InvalidArgumentError(
          "must be `request`, or one or several (with commas) of tenant, model, adapter, device "
          "and day");
    }
    fields.push_back(field);
  }
  return fields;
}

void UsageSums::Add(const UsageEntry& entry) {
  requests += entry.requests;
  if (!entry.cost.priced) unpriced_requests += entry.requests;
  prompt_tokens += entry.prompt_tokens;
  if (entry.work.total() > 0) served_prompt_tokens += entry.prompt_tokens;
  cached_tokens += entry.cached_tokens;
  output_tokens += entry.output_tokens;
  work += entry.work;
  energy_joules += entry.energy_joules;
  AddCost(entry.cost, &cost);
}

void UsageSums::Add(const UsageSums& other) {
  requests += other.requests;
  unpriced_requests += other.unpriced_requests;
  prompt_tokens += other.prompt_tokens;
  served_prompt_tokens += other.served_prompt_tokens;
  cached_tokens += other.cached_tokens;
  output_tokens += other.output_tokens;
  work += other.work;
  energy_joules += other.energy_joules;
  AddCost(other.cost, &cost);
}

UsageSums& UsageTotals::RowOf(Key key) {
  const auto found = rows_.find(key);
  if (found != rows_.end()) return found->second;
  if (rows_.size() >= kUsageRowsMax) {
    std::fill(key.begin(), key.end() - 1, kOtherRow);
  }
  return rows_[std::move(key)];
}

void UsageTotals::Add(const UsageEntry& entry) {
  Key key;
  for (const UsageField field : by_) key.push_back(ValueOf(entry, field));
  key.push_back(entry.cost.currency);
  RowOf(std::move(key)).Add(entry);
}

void UsageTotals::Add(const UsageTotals& finer) {
  std::vector<size_t> places;
  for (const UsageField field : by_) {
    const auto found = std::find(finer.by_.begin(), finer.by_.end(), field);
    TESSERA_CHECK(found != finer.by_.end()) << "no totals by " << UsageFieldName(field);
    places.push_back(static_cast<size_t>(found - finer.by_.begin()));
  }
  for (const auto& [finer_key, sums] : finer.rows_) {
    Key key;
    for (const size_t place : places) key.push_back(finer_key[place]);
    key.push_back(finer_key.back());
    RowOf(std::move(key)).Add(sums);
  }
}

}  // namespace tessera
