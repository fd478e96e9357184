// The readiness rule, see readiness.h.

#include "coordinator/api/readiness.h"

#include "absl/strings/str_cat.h"

namespace tessera::api {
namespace {

ModelReadiness JudgeModel(const SchedulerStats& stats, uint32_t model, absl::Time now,
                          absl::Duration progress_deadline) {
  ModelReadiness judged;
  judged.reason = "no group of ranks has loaded it yet";
  for (const GroupStats& group : stats.groups) {
    if (group.model != model) continue;
    if (!group.ready) {
      judged.reason = absl::StrCat("group ", group.group, " is not ready");
      continue;
    }
    const absl::Duration silent = now - group.last_progress;
    if (silent <= progress_deadline) return {.ready = true, .reason = ""};
    judged.reason = absl::StrCat("group ", group.group, " has made no progress for ",
                                 absl::FormatDuration(absl::Trunc(silent, absl::Milliseconds(100))),
                                 ", the deadline is ", absl::FormatDuration(progress_deadline));
  }
  return judged;
}

}  // namespace

ReadinessReport JudgeReadiness(const SchedulerStats& stats, size_t num_models, absl::Time now,
                               absl::Duration progress_deadline) {
  ReadinessReport report;
  report.draining = stats.draining;
  report.ready = !stats.draining && num_models > 0;
  for (size_t i = 0; i < num_models; ++i) {
    report.models.push_back(JudgeModel(stats, static_cast<uint32_t>(i), now, progress_deadline));
    report.ready = report.ready && report.models.back().ready;
  }
  return report;
}

}  // namespace tessera::api
