// Who used how much of the GPUs' time. A row's share of its step goes to its sequence when the step
// is answered; from there it is settled now and then, and when the request ends, into the accounts
// of the request and of its tenant. What tokens have cost that a stop string may still cut off
// waits until the text side has decided: it may turn out to be overrun.

#include <algorithm>
#include <utility>

#include "coordinator/sched/scheduler_state.h"

namespace tessera {

RowShares Scheduler::State::ShareStep(GroupState& group, const PlanInFlight& plan,
                                      const StepDone& event) {
  if (plan.rows.empty()) return {};
  const double work = SharedSeconds(event.rank_results);
  group.work_seconds += work;
  // A rank that got its plan late is no reason to think that tokens take longer.
  const double ranks = static_cast<double>(event.rank_results.size());
  if (work > 0) {
    const StepCost::Terms& terms = group.cost_terms;
    if (group.cost.known()) {
      ++group.forecast.count;
      group.forecast.predicted_seconds =
          terms.fixed + terms.per_token * plan.tokens + terms.per_pair * plan.attended;
      group.forecast.measured_seconds = work / ranks;
    }
    group.cost.Observe(plan.tokens, plan.attended, work / ranks);
  }
  constexpr uint64_t kLearnAgainSteps = 16;
  if (group.steps % kLearnAgainSteps == 0) group.cost_terms = group.cost.terms();
  return ShareOut(work, group.cost_terms, plan.rows.size(), plan.tokens, plan.attended);
}

void Scheduler::State::ChargeRow(Sequence& sequence, int64_t tokens, double seconds) {
  if (sequence.status != SequenceStatus::kRunning) {
    ChargeOverrun(sequence, seconds);
    return;
  }
  const int64_t begin = sequence.num_computed_tokens;
  const int64_t end = begin + tokens;
  const int64_t again_end = std::clamp(sequence.num_computed_before, begin, end);
  const int64_t prompt_end = std::clamp<int64_t>(sequence.num_prompt_tokens, again_end, end);
  const double per_token = seconds / static_cast<double>(tokens);
  sequence.recompute_seconds += per_token * static_cast<double>(again_end - begin);
  sequence.prefill_seconds += per_token * static_cast<double>(prompt_end - again_end);
  sequence.decode_seconds += per_token * static_cast<double>(end - prompt_end);
}

void Scheduler::State::ChargeOverrun(Sequence& sequence, double seconds) {
  sequence.request->work[WorkKind::kOverrun] += seconds;
  sequence.tenant->work[WorkKind::kOverrun] += seconds;
}

void Scheduler::State::CutOff(Sequence& sequence, int64_t tokens) {
  // The first output token came out of the prompt's last row, every other one out of its own.
  const int64_t decoded = std::max(sequence.num_output() - 1, tokens);
  if (tokens <= 0) return;
  ModelOf(sequence).counted.overrun_tokens += static_cast<uint64_t>(tokens);
  const double share = static_cast<double>(tokens) / static_cast<double>(decoded);
  const double seconds = sequence.decode_seconds * share;
  sequence.decode_seconds -= seconds;
  ChargeOverrun(sequence, seconds);
}

void Scheduler::State::SettleWork(Sequence& sequence, bool is_final) {
  const bool is_sure = is_final || !sequence.request->request->sampling.has_stop_strings;
  Work work;
  work[WorkKind::kPrefill] = std::exchange(sequence.prefill_seconds, 0);
  work[WorkKind::kRecompute] = std::exchange(sequence.recompute_seconds, 0);
  if (is_sure) work[WorkKind::kDecode] = std::exchange(sequence.decode_seconds, 0);
  sequence.request->work += work;
  sequence.tenant->work += work;
}

std::vector<ClosedAccount> Scheduler::TakeAccounts() { return std::exchange(state_->accounts, {}); }

std::vector<TenantWork> Scheduler::WorkOfTenants() {
  for (const auto& [id, group] : state_->groups) {
    for (Sequence* sequence : group.running) state_->SettleWork(*sequence, /*is_final=*/false);
  }
  std::vector<TenantWork> all;
  for (uint32_t model = 0; model < state_->models.size(); ++model) {
    for (const auto& [name, tenant] : state_->models[model]->queue.tenants()) {
      all.push_back({.model = model, .tenant = name, .work = tenant.work});
    }
  }
  return all;
}

double Scheduler::WorkOfGroup(uint32_t group) const {
  const auto found = state_->groups.find(group);
  return found == state_->groups.end() ? 0 : found->second.work_seconds;
}

}  // namespace tessera
