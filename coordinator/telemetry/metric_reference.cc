// METRICS.md, printed from the table.

#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/telemetry/metric_table.h"
#include "coordinator/telemetry/vllm_names.h"

namespace tessera {
namespace {

constexpr char kIntroduction[] =
    "# Metrics\n\n"
    "Printed by `tessera-coordinator --metrics-reference`; what stands here is what `GET /metrics` "
    "shows, a test compares.\nUnits are in the names: `_seconds`, `_bytes`, `_joules`, `_ratio`, "
    "`_total` (a counter). Histograms add `_bucket`, `_sum` and `_count`.\nStable: name, labels "
    "and meaning change with a major release only. Experimental: with any release, whose notes "
    "say so.\nHow many values a label can have is bounded, see README.md.\n";

const char* StabilityName(Stability stability) {
  return stability == Stability::kStable ? "stable" : "experimental";
}

std::string Row(const MetricRow& row) {
  return absl::StrCat("| `", row.name, "` | ", TypeOf(row), " | ", row.labels, " | ", row.unit,
                      " | ", row.meaning, " | ", StabilityName(row.stability), " |\n");
}

void AppendBound(std::string* text, double bound) { absl::StrAppendFormat(text, "%.9g", bound); }

// One line per set: its bounds, and who has it.
std::string Buckets() {
  std::string text = "\n## Buckets\n\n| upper bounds | of |\n|---|---|\n";
  std::vector<BucketSet> told = {BucketSet::kNone};
  for (const MetricRow& row : MetricTable()) {
    if (absl::c_linear_search(told, row.buckets)) continue;
    told.push_back(row.buckets);
    std::vector<std::string> names;
    for (const MetricRow& other : MetricTable()) {
      if (other.buckets == row.buckets) names.push_back(absl::StrCat("`", other.name, "`"));
    }
    absl::StrAppend(&text, "| ", absl::StrJoin(BucketsOf(row.buckets), " ", AppendBound), " | ",
                    absl::StrJoin(names, ", "), " |\n");
  }
  return text;
}

const char* LabelsText(VllmLabels labels) {
  switch (labels) {
    case VllmLabels::kSame:
      return "";
    case VllmLabels::kFinishReason:
      return "finished_reason: stop, length, error, abort (cancelled or deadline)";
    case VllmLabels::kWaitsForRoom:
      return "reason=\"capacity\"";
    case VllmLabels::kCacheConfigInfo:
      return "block_size, num_gpu_blocks; the value is 1";
  }
  return "";
}

std::string VllmSection() {
  std::string text =
      "\n## Under vLLM's names\n\n"
      "With `--metrics-compat vllm`, besides the others: the same observations, labelled "
      "model_name and engine=\"0\", in vLLM's buckets.\n\n"
      "| name | shows | more labels |\n|---|---|---|\n";
  for (const VllmName& name : VllmNames()) {
    absl::StrAppend(&text, "| `", name.name, "` | `", name.source, "` | ", LabelsText(name.labels),
                    " |\n");
  }
  return text;
}

}  // namespace

std::string MetricsReference() {
  std::string text = kIntroduction;
  const char* section = "";
  for (const MetricRow& row : MetricTable()) {
    if (row.section != section) {
      section = row.section;
      absl::StrAppend(&text, "\n## ", section,
                      "\n\n| name | type | labels | unit | meaning | stability |\n"
                      "|---|---|---|---|---|---|\n");
    }
    text += Row(row);
  }
  return text + Buckets() + VllmSection();
}

}  // namespace tessera
