// The accounts of every rank: intervals of a step sum up to the step, steps and the gaps between
// them to the time that has passed on the rank, with nothing lost, doubled or overlapping.

#ifndef TESSERA_TESTS_SIMULATION_LEDGER_CHECK_H_
#define TESSERA_TESTS_SIMULATION_LEDGER_CHECK_H_

#include <cstdint>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "tests/simulation/violations.h"

namespace tessera::simulation {

class LedgerCheck {
 public:
  explicit LedgerCheck(Violations& violations) : violations_(violations) {}

  // The rank begins to serve.
  void Open(uint64_t epoch, uint32_t rank, absl::Time now) { accounts_[{epoch, rank}].open = now; }
  // The rank begins a step.
  void Begin(uint64_t epoch, uint32_t rank, uint64_t step, absl::Time now) {
    accounts_[{epoch, rank}].begun[step] = now;
  }
  // The coordinator hears of it.
  void Take(const StepDone& done, absl::Time now) {
    for (const cluster::v1::StepResult& result : done.rank_results) TakeOne(result, now);
  }

 private:
  struct Account {
    absl::Time open;
    std::map<uint64_t, absl::Time> begun;  // by step
    uint64_t sum_ns = 0;                   // of all steps and gaps told so far
  };

  void TakeOne(const cluster::v1::StepResult& result, absl::Time now) {
    Account& account = accounts_[{result.epoch(), result.rank()}];
    uint64_t intervals = 0;
    for (const auto& interval : result.intervals()) intervals += interval.duration_ns();
    account.sum_ns += result.idle_before_ns();
    const auto begun = account.begun.find(result.step());
    const bool is_right = begun != account.begun.end() && intervals == result.step_ns() &&
                          account.open + absl::Nanoseconds(account.sum_ns) == begun->second &&
                          begun->second + absl::Nanoseconds(result.step_ns()) <= now;
    account.sum_ns += result.step_ns();
    if (is_right) return;
    violations_.Report(Checker::kLedger,
                       absl::StrCat("the accounts of rank ", result.rank(), " in epoch ",
                                    result.epoch(), " do not sum up at step ", result.step()));
  }

  Violations& violations_;
  std::map<std::pair<uint64_t, uint32_t>, Account> accounts_;  // by epoch and rank
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_LEDGER_CHECK_H_
