// Step, rank and queue metrics; see step_meter.h. A rank's device time is split into compute,
// collective and sample (as it reports them), overhead (the rest of the step) and idle (the gap
// before it). The skew of a step leaves collectives out: in them all ranks wait for the slowest, so
// that the whole step takes all of them the same time.

#include "coordinator/engine/step_meter.h"

#include <algorithm>
#include <utility>
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
      group = Group{.model = ready->model,
                    .epoch = ready->epoch,
                    .last_step = 0,
                    .ready = true,
                    .skew = group.skew,
                    .forecasts = group.forecasts};
    }
  } else if (const auto* lost = std::get_if<GroupLost>(&event)) {
    const auto found = groups_.find(lost->group);
    if (found == groups_.end() || !found->second.ready || lost->epoch != found->second.epoch) {
      return;
    }
    found->second.ready = false;
    metrics_.CountGroupLoss(found->second.model, lost->group);
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
  ObserveSkew(done, group);
}

void StepMeter::ObserveSkew(const StepDone& done, Group& group) {
  const size_t num_ranks = done.rank_results.size();
  if (num_ranks < 2) return;
  std::vector<std::pair<uint64_t, uint32_t>> own;  // nanoseconds, rank
  for (const StepResult& result : done.rank_results) {
    uint64_t waited_ns = 0;
    for (const DeviceInterval& interval : result.intervals()) {
      if (interval.kind() == DeviceInterval::COLLECTIVE) waited_ns += interval.duration_ns();
    }
    own.emplace_back(result.step_ns() - std::min(result.step_ns(), waited_ns), result.rank());
  }
  std::sort(own.begin(), own.end());
  const double median = static_cast<double>(own[(num_ranks - 1) / 2].first) / 2 +
                        static_cast<double>(own[num_ranks / 2].first) / 2;
  if (median <= 0) return;
  if (group.skew == nullptr) group.skew = &metrics_.rank_skew(done.group);
  group.skew->Observe(static_cast<double>(own.back().first) / median);
  metrics_.CountSlowestRank(done.group, own.back().second);
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
  ObserveBlocks(stats);
  for (const GroupStats& group : stats.groups) ObserveForecast(group);
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

// Of several steps that were answered in one turn the last one speaks for all.
void StepMeter::ObserveForecast(const GroupStats& stats) {
  const auto found = groups_.find(stats.group);
  if (found == groups_.end() || stats.forecast.count == found->second.forecasts) return;
  found->second.forecasts = stats.forecast.count;
  metrics_.ObserveStepTime(stats.model, stats.forecast.predicted_seconds,
                           stats.forecast.measured_seconds);
}

void StepMeter::ObserveBlocks(const SchedulerStats& stats) {
  struct Blocks {
    int64_t held = 0;
    int64_t cached = 0;
    int64_t empty = 0;
  };
  std::vector<std::vector<Blocks>> sums(stats.models.size());
  for (const GroupStats& group : stats.groups) {
    std::vector<Blocks>& of_model = sums[group.model];
    of_model.resize(std::max(of_model.size(), group.blocks_total.size()));
    if (!group.ready) continue;
    for (size_t g = 0; g < group.blocks_total.size(); ++g) {
      of_model[g].held += group.blocks_total[g] - group.blocks_free[g];
      of_model[g].cached += group.blocks_cached[g];
      of_model[g].empty += group.blocks_free[g] - group.blocks_cached[g];
    }
  }
  kv_blocks_.resize(sums.size());
  for (size_t model = 0; model < sums.size(); ++model) {
    std::vector<KvBlockGauges>& gauges = kv_blocks_[model];
    while (gauges.size() < sums[model].size()) {
      gauges.push_back(metrics_.kv_blocks(model, gauges.size()));
    }
    for (size_t g = 0; g < sums[model].size(); ++g) {
      gauges[g].held->Set(static_cast<double>(sums[model][g].held));
      gauges[g].cached->Set(static_cast<double>(sums[model][g].cached));
      gauges[g].empty->Set(static_cast<double>(sums[model][g].empty));
    }
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
