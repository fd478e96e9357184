// Step, rank and queue metrics; see step_meter.h. A rank's device time is split into compute,
// collective and sample (as it reports them), overhead (the rest of the step) and idle (the gap
// before it).

#include "coordinator/engine/step_meter.h"

#include <algorithm>
#include <vector>

#include "absl/time/time.h"

namespace tessera {
namespace {

using cluster::v1::DeviceInterval;
using cluster::v1::StepResult;

double Seconds(uint64_t nanoseconds) { return static_cast<double>(nanoseconds) * 1e-9; }

const char* KindName(DeviceInterval::Kind kind) {
  switch (kind) {
    case DeviceInterval::COLLECTIVE:
      return "collective";
    case DeviceInterval::SAMPLE:
      return "sample";
    default:
      return "compute";
  }
}

}  // namespace

void StepMeter::Observe(const Event& event, absl::Time now) {
  if (const auto* ready = std::get_if<GroupReady>(&event)) {
    Group& group = groups_[ready->group];
    if (ready->epoch > group.epoch || group.epoch == 0) {
      group = Group{.model = ready->model, .epoch = ready->epoch, .last_step = 0};
    }
  } else if (const auto* done = std::get_if<StepDone>(&event)) {
    ObserveStep(*done, now);
  }
}

void StepMeter::ObserveStep(const StepDone& done, absl::Time now) {
  const auto found = groups_.find(done.group);
  if (found == groups_.end() || done.rank_results.empty()) return;
  Group& group = found->second;
  const StepResult& first = done.rank_results.front();
  if (first.epoch() != group.epoch || first.step() <= group.last_step) return;  // stale
  group.last_step = first.step();
  uint64_t slowest_ns = 0;
  for (const StepResult& result : done.rank_results) {
    ObserveRank(result, now);
    slowest_ns = std::max(slowest_ns, result.step_ns());
  }
  if (first.rows() == 0) return;  // a heartbeat is progress, not a step of the model
  ModelMetrics& metrics = metrics_.model(group.model);
  metrics.steps->Increment();
  metrics.step_time->Observe(Seconds(slowest_ns));
  metrics.step_rows->Observe(first.rows());
  metrics.step_tokens->Observe(first.tokens_computed());
}

void StepMeter::ObserveRank(const StepResult& result, absl::Time now) {
  const uint32_t group = result.group();
  const uint32_t rank = result.rank();
  metrics_.ObserveRank(group, rank, result.step(), absl::ToDoubleSeconds(now - absl::UnixEpoch()),
                       result.resident_bytes());
  metrics_.AddRankExpertTokens(group, rank, result.expert_tokens());
  uint64_t accounted_ns = 0;
  for (const DeviceInterval& interval : result.intervals()) {
    metrics_.AddRankDeviceSeconds(group, rank, KindName(interval.kind()),
                                  Seconds(interval.duration_ns()));
    accounted_ns += interval.duration_ns();
  }
  const uint64_t overhead_ns = result.step_ns() - std::min(result.step_ns(), accounted_ns);
  metrics_.AddRankDeviceSeconds(group, rank, "overhead", Seconds(overhead_ns));
  metrics_.AddRankDeviceSeconds(group, rank, "idle", Seconds(result.idle_before_ns()));
}

void StepMeter::Observe(const SchedulerStats& stats) {
  struct Usage {
    std::vector<int64_t> total;  // blocks per KvGroup, over the model's ready groups
    std::vector<int64_t> free;
  };
  std::vector<Usage> usage(stats.models.size());
  for (const GroupStats& group : stats.groups) {
    if (!group.ready) continue;
    Usage& sum = usage[group.model];
    sum.total.resize(group.blocks_total.size());
    sum.free.resize(group.blocks_total.size());
    for (size_t g = 0; g < group.blocks_total.size(); ++g) {
      sum.total[g] += group.blocks_total[g];
      sum.free[g] += group.blocks_free[g];
    }
  }
  counted_.resize(stats.models.size());
  for (size_t model = 0; model < stats.models.size(); ++model) {
    double fullest = 0;
    for (size_t g = 0; g < usage[model].total.size(); ++g) {
      const double total = static_cast<double>(usage[model].total[g]);
      if (total <= 0) continue;
      fullest = std::max(fullest, 1 - static_cast<double>(usage[model].free[g]) / total);
    }
    ModelMetrics& metrics = metrics_.model(model);
    metrics.requests_running->Set(static_cast<double>(stats.models[model].running));
    metrics.requests_waiting->Set(static_cast<double>(stats.models[model].waiting));
    metrics.tokens_waiting->Set(static_cast<double>(stats.models[model].waiting_tokens));
    metrics.kv_cache_usage->Set(fullest);
    CountModel(stats.models[model], counted_[model], metrics);
  }
}

void StepMeter::CountModel(const ModelStats& stats, ModelStats& counted, ModelMetrics& metrics) {
  const auto count = [](uint64_t total, uint64_t& seen, prometheus::Counter* counter) {
    if (total == seen) return;
    counter->Increment(static_cast<double>(total - seen));
    seen = total;
  };
  count(stats.computed_tokens, counted.computed_tokens, metrics.computed_tokens);
  count(stats.recomputed_tokens, counted.recomputed_tokens, metrics.recomputed_tokens);
  count(stats.overrun_tokens, counted.overrun_tokens, metrics.overrun_tokens);
  count(stats.prefix_query_tokens, counted.prefix_query_tokens, metrics.prefix_cache_queries);
  count(stats.prefix_hit_tokens, counted.prefix_hit_tokens, metrics.prefix_cache_hits);
  count(stats.preemptions, counted.preemptions, metrics.preemptions);
}

}  // namespace tessera
