// What every exported metric is: one row of one table. The families are made from it, /metrics
// takes its help texts from it, and METRICS.md is printed from it. Constant.

#ifndef TESSERA_COORDINATOR_TELEMETRY_METRIC_TABLE_H_
#define TESSERA_COORDINATOR_TELEMETRY_METRIC_TABLE_H_

#include <prometheus/histogram.h>

#include <string>
#include <variant>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/telemetry/series.h"

namespace tessera {

// The member that the metric is; its type is the metric's type.
using MetricMember =
    std::variant<prometheus::Counter * ModelMetrics::*, prometheus::Gauge * ModelMetrics::*,
                 prometheus::Histogram * ModelMetrics::*, prometheus::Counter * TenantMetrics::*,
                 prometheus::Counter * RankMetrics::*, prometheus::Gauge * RankMetrics::*,
                 prometheus::Gauge * ProcessMetrics::*,
                 Labelled<prometheus::Counter> LabelledMetrics::*,
                 Labelled<prometheus::Gauge> LabelledMetrics::*,
                 Labelled<prometheus::Histogram> LabelledMetrics::*>;

enum class BucketSet {
  kNone,
  kFirstToken,  // seconds
  kToken,       // seconds between tokens, of a step
  kRequest,     // seconds of whole requests and of waiting
  kLengths,     // tokens, 1-2-5
  kRows,        // sequences, 1-2-5
  kPowers,      // tokens of a step, powers of two
  kChoices,     // of a request
  kSkew,        // slowest over median
  kError,       // ratio of a prediction's error
};

enum class Stability {
  kStable,        // name, labels and meaning change with a major release only
  kExperimental,  // may change with any release; its notes say so
};

struct MetricRow {
  MetricMember member;
  const char* section;  // heading in the reference
  const char* name;
  const char* labels;  // "a, b"; empty: none
  const char* unit;
  const char* meaning;
  BucketSet buckets = BucketSet::kNone;
  Stability stability = Stability::kStable;
};

absl::Span<const MetricRow> MetricTable();
prometheus::Histogram::BucketBoundaries BucketsOf(BucketSet set);
std::vector<std::string> LabelsOf(const MetricRow& row);
// "counter", "gauge" or "histogram".
const char* TypeOf(const MetricRow& row);

// METRICS.md: every metric, their buckets, and vLLM's names for them.
std::string MetricsReference();

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TELEMETRY_METRIC_TABLE_H_
