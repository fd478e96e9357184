// See the header. Whatever goes wrong with a step ends the group's epoch; nothing else is ever done
// about it.

#include "coordinator/cluster/cluster_core.h"

#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

namespace pb = cluster::v1;

std::vector<double> FlopsPerToken(const GroupManagerOptions& options) {
  std::vector<double> flops;
  for (const ModelTarget& model : options.models) {
    flops.push_back(2.0 * static_cast<double>(ParameterCount(model.spec)));
  }
  return flops;
}

std::vector<int> RanksPerGroup(const GroupManagerOptions& options) {
  std::vector<int> ranks;
  for (const ModelTarget& model : options.models) ranks.push_back(model.workers());
  return ranks;
}

}  // namespace

ClusterCore::ClusterCore(GroupManagerOptions options)
    : manager_(options), tracker_(FlopsPerToken(options), RanksPerGroup(options)) {}

absl::StatusOr<uint64_t> ClusterCore::Join(const pb::WorkerMessage& first, absl::Time now,
                                           GroupActions& actions) {
  if (!first.has_hello()) return absl::InvalidArgumentError("the first message must be Hello");
  return manager_.Join(first.hello(), now, actions);
}

void ClusterCore::OnMessage(uint64_t worker, const pb::WorkerMessage& message, absl::Time now,
                            GroupActions& actions) {
  manager_.OnMessage(worker, message, now, actions);
  ForgetLost(actions);
}

void ClusterCore::OnControlStreamClosed(uint64_t worker, absl::Time now, GroupActions& actions) {
  manager_.OnLeft(worker, absl::UnavailableError("its control stream ended"), now, actions);
  ForgetLost(actions);
}

absl::Status ClusterCore::OnStepStream(uint64_t worker, uint64_t epoch, absl::Time now,
                                       GroupActions& actions) {
  const absl::Status status = manager_.OnStepStream(worker, epoch, now, actions);
  ForgetLost(actions);
  return status;
}

void ClusterCore::OnStepResult(uint64_t worker, uint64_t epoch, pb::StepResult result,
                               absl::Time now, GroupActions& actions) {
  const absl::StatusOr<GroupManager::RankRef> rank = manager_.RankOf(worker);
  if (!rank.ok() || rank->epoch != epoch) return;
  // Of an earlier life of the coordinator or of the group: stale, dropped.
  if (result.term() != manager_.options().term || result.epoch() != epoch) return;
  if (result.group() != rank->group || result.rank() != rank->rank) {
    OnUnreadableResult(worker, epoch, now, actions);
    return;
  }
  absl::StatusOr<std::optional<StepDone>> done = tracker_.Add(rank->rank, std::move(result), now);
  if (!done.ok()) {
    FailStep(rank->group, epoch, done.status(), now, actions);
  } else if (done->has_value()) {
    actions.events.push_back(std::move(**done));
  }
}

void ClusterCore::OnUnreadableResult(uint64_t worker, uint64_t epoch, absl::Time now,
                                     GroupActions& actions) {
  const absl::StatusOr<GroupManager::RankRef> rank = manager_.RankOf(worker);
  if (!rank.ok() || rank->epoch != epoch) return;
  FailStep(rank->group, epoch,
           absl::InternalError(absl::StrCat("rank ", rank->rank, " sent a damaged StepResult")),
           now, actions);
}

void ClusterCore::OnStepStreamClosed(uint64_t worker, uint64_t epoch, absl::Time now,
                                     GroupActions& actions) {
  const absl::StatusOr<GroupManager::RankRef> rank = manager_.RankOf(worker);
  if (!rank.ok() || rank->epoch != epoch) return;
  FailStep(rank->group, epoch,
           absl::UnavailableError(absl::StrCat("rank ", rank->rank, " closed its step stream")),
           now, actions);
}

std::vector<uint64_t> ClusterCore::BeginStep(const pb::StepPlan& plan, absl::Time now) {
  std::vector<uint64_t> ranks = manager_.ReadyRanks(plan.group(), plan.epoch());
  if (!ranks.empty()) tracker_.Begin(plan, now);
  return ranks;
}

void ClusterCore::OnPlanNotTaken(const pb::StepPlan& plan, absl::Time now, GroupActions& actions) {
  FailStep(plan.group(), plan.epoch(), absl::UnavailableError("a rank takes no plans any more"),
           now, actions);
}

void ClusterCore::Tick(absl::Time now, GroupActions& actions) {
  manager_.Tick(now, actions);
  ForgetLost(actions);
  for (const StepTracker::Overdue& overdue : tracker_.FindOverdue(now)) {
    FailStep(overdue.group, overdue.epoch, overdue.reason, now, actions);
  }
}

void ClusterCore::FailStep(uint32_t group, uint64_t epoch, const absl::Status& reason,
                           absl::Time now, GroupActions& actions) {
  manager_.OnStepFailed(group, epoch, reason, now, actions);
  ForgetLost(actions);
}

void ClusterCore::ForgetLost(const GroupActions& actions) {
  for (const Event& event : actions.events) {
    if (const auto* lost = std::get_if<GroupLost>(&event)) tracker_.Forget(lost->group);
  }
}

}  // namespace tessera
