// See the header.

#include "coordinator/ledger/usage_entry.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/ledger/book/gpu_time.h"

namespace tessera {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr char kTimeFormat[] = "%Y-%m-%dT%H:%M:%E3SZ";

constexpr std::array<FinishReason, 6> kReasons = {FinishReason::kStop,      FinishReason::kLength,
                                                  FinishReason::kCancelled, FinishReason::kDeadline,
                                                  FinishReason::kRejected,  FinishReason::kError};

std::string TimeText(absl::Time time) {
  return absl::FormatTime(kTimeFormat, time, absl::UTCTimeZone());
}

// Reads fields of an object; what is missing or of another type is remembered.
class Fields {
 public:
  explicit Fields(const json& object) : object_(object) {}

  // This object where there is none: what should be in it is missing then.
  const json& Object(const char* name) {
    const json* value = Get(name);
    return value == nullptr ? object_ : *value;
  }
  std::string Text(const char* name) {
    const json* value = Get(name);
    if (value != nullptr && value->is_string()) return value->get<std::string>();
    Miss(name);
    return "";
  }
  double Number(const char* name) {
    const json* value = Get(name);
    if (value != nullptr && value->is_number() && std::isfinite(value->get<double>())) {
      return value->get<double>();
    }
    Miss(name);
    return 0;
  }
  template <typename Unsigned>
  Unsigned Count(const char* name) {
    const json* value = Get(name);
    if (value != nullptr && value->is_number_unsigned() &&
        value->get<uint64_t>() <= std::numeric_limits<Unsigned>::max()) {
      return value->get<Unsigned>();
    }
    Miss(name);
    return 0;
  }
  absl::Time Time(const char* name) {
    absl::Time time;
    std::string reason;
    if (!absl::ParseTime(absl::RFC3339_full, Text(name), &time, &reason)) Miss(name);
    return time;
  }
  FinishReason Reason(const char* name) {
    const std::string text = Text(name);
    for (const FinishReason reason : kReasons) {
      if (text == FinishReasonName(reason)) return reason;
    }
    Miss(name);
    return FinishReason::kError;
  }
  const std::string& missing() const { return missing_; }

 private:
  void Miss(const char* name) {
    if (missing_.empty()) missing_ = name;
  }
  const json* Get(const char* name) {
    if (object_.is_object()) {
      const auto found = object_.find(name);
      if (found != object_.end()) return &*found;
    }
    Miss(name);
    return nullptr;
  }

  const json& object_;
  std::string missing_;
};

}  // namespace

UsageEntry MakeUsageEntry(UsageRecord record, std::string device, Cost cost) {
  UsageEntry entry;
  entry.request_id = std::move(record.request_id);
  entry.tenant = std::move(record.tenant);
  entry.model = std::move(record.model);
  entry.adapter = std::move(record.adapter);
  entry.device = std::move(device);
  entry.arrival = record.arrival;
  entry.finished = record.finished;
  entry.reason = record.reason;
  entry.prompt_tokens = record.prompt_tokens;
  entry.cached_tokens = record.cached_tokens;
  entry.output_tokens = record.output_tokens;
  entry.work = record.work;
  entry.energy_joules = record.energy_joules;
  entry.cost = std::move(cost);
  return entry;
}

void MergeUsage(const UsageEntry& entry, UsageEntry* sum) {
  sum->request_id.clear();
  sum->requests += entry.requests;
  sum->arrival = std::min(sum->arrival, entry.arrival);
  sum->finished = std::max(sum->finished, entry.finished);
  sum->prompt_tokens += entry.prompt_tokens;
  sum->cached_tokens += entry.cached_tokens;
  sum->output_tokens += entry.output_tokens;
  sum->work += entry.work;
  sum->energy_joules += entry.energy_joules;
  AddCost(entry.cost, &sum->cost);
}

std::string UsageLine(const UsageEntry& entry) {
  ordered_json line;
  line["v"] = kUsageSchema;
  line["entry"] = entry.id;
  if (entry.requests > 1) line["requests"] = entry.requests;
  line["id"] = entry.request_id;
  line["tenant"] = entry.tenant;
  line["model"] = entry.model;
  if (!entry.adapter.empty()) line["adapter"] = entry.adapter;
  line["device"] = entry.device;
  line["arrival"] = TimeText(entry.arrival);
  line["finished"] = TimeText(entry.finished);
  line["reason"] = FinishReasonName(entry.reason);
  line["prompt_tokens"] = entry.prompt_tokens;
  line["cached_tokens"] = entry.cached_tokens;
  line["output_tokens"] = entry.output_tokens;
  for (size_t i = 0; i < kNumWorkKinds; ++i) {
    line["gpu_seconds"][GpuKindName(static_cast<GpuKind>(i))] = entry.work.seconds[i];
  }
  line["energy_joules"] = entry.energy_joules;
  line["currency"] = entry.cost.currency;
  line["cost"] = entry.cost.total();
  if (entry.cost.priced) {
    line["parts"]["input"] = entry.cost.input;
    line["parts"]["output"] = entry.cost.output;
    line["parts"]["energy"] = entry.cost.energy;
    line["parts"]["saved"] = entry.cost.saved;
    line["parts"]["waste"] = entry.cost.waste;
  }
  return line.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

absl::StatusOr<UsageEntry> ParseUsageLine(std::string_view text) {
  const json line = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!line.is_object()) return absl::InvalidArgumentError("is no JSON object");
  Fields fields(line);
  const int schema = fields.Count<uint16_t>("v");
  if (fields.missing().empty() && (schema < 1 || schema > kUsageSchema)) {
    return absl::InvalidArgumentError(
        absl::StrCat("is of schema ", schema, "; this program reads those up to ", kUsageSchema));
  }
  UsageEntry entry;
  entry.id = fields.Text("entry");
  if (line.contains("requests")) entry.requests = fields.Count<uint64_t>("requests");
  entry.request_id = fields.Text("id");
  entry.tenant = fields.Text("tenant");
  entry.model = fields.Text("model");
  if (line.contains("adapter")) entry.adapter = fields.Text("adapter");
  entry.device = fields.Text("device");
  entry.arrival = fields.Time("arrival");
  entry.finished = fields.Time("finished");
  entry.reason = fields.Reason("reason");
  entry.prompt_tokens = fields.Count<uint64_t>("prompt_tokens");
  entry.cached_tokens = fields.Count<uint64_t>("cached_tokens");
  entry.output_tokens = fields.Count<uint64_t>("output_tokens");
  if (entry.cached_tokens > entry.prompt_tokens) {
    return absl::InvalidArgumentError("has more cached than prompt tokens");
  }
  Fields seconds(fields.Object("gpu_seconds"));
  for (size_t i = 0; i < kNumWorkKinds; ++i) {
    entry.work.seconds[i] = seconds.Number(GpuKindName(static_cast<GpuKind>(i)));
  }
  entry.energy_joules = fields.Number("energy_joules");
  entry.cost.currency = fields.Text("currency");
  entry.cost.priced = line.contains("parts");
  std::string missing = fields.missing();
  if (missing.empty()) missing = seconds.missing();
  if (entry.cost.priced) {
    Fields parts(fields.Object("parts"));
    entry.cost.input = parts.Number("input");
    entry.cost.output = parts.Number("output");
    entry.cost.energy = parts.Number("energy");
    entry.cost.saved = parts.Number("saved");
    entry.cost.waste = parts.Number("waste");
    if (missing.empty()) missing = parts.missing();
  }
  if (missing.empty()) return entry;
  return absl::InvalidArgumentError(absl::StrCat("has no usable field `", missing, "`"));
}

}  // namespace tessera
