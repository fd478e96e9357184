// See the header.

#include "tests/simulation/group_check.h"

#include <algorithm>
#include <variant>

#include "absl/strings/str_cat.h"

namespace tessera::simulation {

void GroupCheck::Violate(uint32_t group, const std::string& what) {
  violations_.Report(Checker::kGroups, absl::StrCat("group ", group, " ", what));
}

void GroupCheck::Observe(const Event& event, bool faults, absl::Time now) {
  if (const auto* ready = std::get_if<GroupReady>(&event)) {
    groups_[ready->group] = {
        .epoch = ready->epoch, .under_way = {}, .last_plan = now, .idle_since = now};
  } else if (const auto* lost = std::get_if<GroupLost>(&event)) {
    if (!faults) {
      Violate(lost->group, absl::StrCat("is lost for no reason: ", lost->reason.message()));
    }
    const auto found = groups_.find(lost->group);
    if (found != groups_.end() && found->second.epoch == lost->epoch) groups_.erase(found);
  } else if (const auto* done = std::get_if<StepDone>(&event)) {
    const auto found = groups_.find(done->group);
    if (found == groups_.end() || done->rank_results.empty()) return;
    Group& group = found->second;
    const cluster::v1::StepResult& result = done->rank_results.front();
    if (result.epoch() != group.epoch || group.under_way.empty()) return;
    if (result.step() == group.under_way.front()) group.under_way.pop_front();
    group.idle_since = now;
  }
}

void GroupCheck::Observe(const cluster::v1::StepPlan& plan, absl::Time now) {
  const auto found = groups_.find(plan.group());
  if (found == groups_.end()) return;
  CheckHeartbeat(plan.group(), found->second, now);
  found->second.under_way.push_back(plan.step());
  found->second.last_plan = now;
}

void GroupCheck::CheckHeartbeat(uint32_t id, const Group& group, absl::Time now) {
  if (!group.under_way.empty()) return;
  const absl::Time due = std::max(group.last_plan + bounds_.heartbeat, group.idle_since);
  if (now <= due + bounds_.turn) return;
  Violate(id, absl::StrCat("got no plan for ", absl::FormatDuration(now - group.last_plan)));
}

void GroupCheck::AfterTurn(absl::Time now) {
  for (const auto& [id, group] : groups_) {
    CheckHeartbeat(id, group, now);
    for (const sim::Worker* worker : ranks_[group.epoch]) {
      if (now <= worker->silent_since() + bounds_.silence) continue;
      Violate(id, absl::StrCat("is not lost, and a rank of it has been silent for ",
                               absl::FormatDuration(now - worker->silent_since())));
    }
  }
}

}  // namespace tessera::simulation
