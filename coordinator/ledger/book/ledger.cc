// See the header.

#include "coordinator/ledger/book/ledger.h"

#include <utility>

#include "base/check.h"

namespace tessera {

Ledger::Ledger(std::vector<std::string> models, LedgerSinks sinks)
    : models_(std::move(models)), sinks_(std::move(sinks)) {}

void Ledger::Observe(const Event& event, const Scheduler& scheduler, absl::Time now) {
  if (const auto* ready = std::get_if<GroupReady>(&event)) {
    groups_[ready->group].OnReady(*ready, now);
  } else if (const auto* lost = std::get_if<GroupLost>(&event)) {
    groups_[lost->group].OnLost(lost->epoch, now);
  } else if (const auto* done = std::get_if<StepDone>(&event)) {
    const auto found = groups_.find(done->group);
    if (found == groups_.end()) return;
    found->second.OnStepDone(*done, scheduler.WorkOfGroup(done->group), now);
  }
}

void Ledger::OnPlan(const cluster::v1::StepPlan& plan, absl::Time now) {
  groups_[plan.group()].OnPlan(plan, now);
}

void Ledger::OnFinished(const Request& request, const RequestUpdate& update, absl::Time now) {
  TESSERA_CHECK(update.finished && update.details.has_value());
  if (!sinks_.record) return;
  const RequestUpdate::Details& details = *update.details;
  UsageRecord record;
  record.request_id = request.public_id;
  record.tenant = request.tenant;
  record.model = models_.at(request.model);
  record.arrival = request.arrival;
  record.finished = now;
  record.reason = update.reason;
  record.prompt_tokens = details.prompt_tokens;
  record.cached_tokens = details.cached_tokens;
  record.output_tokens = details.output_tokens;
  record.work = details.work;
  TESSERA_CHECK(records_.try_emplace(request.id, std::move(record)).second)
      << "request " << request.id << " ends twice";
}

void Ledger::Complete(UsageRecord record, const Work& work) {
  record.work = work;
  sinks_.record(std::move(record));
}

void Ledger::OnClosed(absl::Span<const ClosedAccount> accounts) {
  if (!sinks_.record) return;
  for (const ClosedAccount& account : accounts) {
    auto node = records_.extract(account.request);
    TESSERA_CHECK(!node.empty()) << "the account of request " << account.request
                                 << " is closed before its end was told";
    Complete(std::move(node.mapped()), account.work);
  }
}

void Ledger::CloseAll() {
  for (auto& [id, record] : std::exchange(records_, {})) {
    const Work work = record.work;
    Complete(std::move(record), work);
  }
}

void Ledger::Charge(uint32_t model, const std::string& tenant, GpuKind kind, double seconds) {
  if (seconds == 0 || !sinks_.charge) return;
  sinks_.charge({.model = model, .tenant = tenant, .kind = kind, .seconds = seconds});
}

void Ledger::Settle(Scheduler& scheduler, absl::Time now) {
  for (const TenantWork& tenant : scheduler.WorkOfTenants()) {
    Work& charged = charged_[{tenant.model, tenant.tenant}];
    for (size_t kind = 0; kind < kNumWorkKinds; ++kind) {
      const double seconds = tenant.work.seconds[kind] - charged.seconds[kind];
      Charge(tenant.model, tenant.tenant, static_cast<GpuKind>(kind), seconds);
    }
    charged = tenant.work;
  }
  for (auto& [id, group] : groups_) {
    const GpuSeconds spent = group.Take(now);
    for (size_t kind = kNumWorkKinds; kind < kNumGpuKinds; ++kind) {
      Charge(group.model(), "", static_cast<GpuKind>(kind), spent[kind]);
    }
    const double wall = group.Wall(now);
    const double passed = wall - std::exchange(wall_[id], wall);
    if (passed > 0 && sinks_.wall) sinks_.wall(group.model(), passed);
  }
}

}  // namespace tessera
