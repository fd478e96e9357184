// The ledger of a whole life: every request has exactly one account, closed with or after its end;
// the accounts sum up to what tenants were charged; and all charges together to the time that has
// passed on every rank, whatever was killed, lost or answered late.

#ifndef TESSERA_TESTS_SIMULATION_ACCOUNT_CHECK_H_
#define TESSERA_TESTS_SIMULATION_ACCOUNT_CHECK_H_

#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/ledger/book/ledger.h"
#include "tests/simulation/request_book.h"
#include "tests/simulation/violations.h"

namespace tessera::simulation {

class AccountCheck {
 public:
  AccountCheck(const RequestBook& book, Violations& violations)
      : book_(book), violations_(violations) {}

  LedgerSinks Sinks() {
    LedgerSinks sinks;
    sinks.charge = [this](const GpuCharge& charge) { Take(charge); };
    sinks.wall = [this](uint32_t, double seconds) { wall_ += seconds; };
    return sinks;
  }

  void Close(const std::vector<ClosedAccount>& accounts) {
    for (const ClosedAccount& account : accounts) {
      const auto found = book_.all().find(account.request);
      if (found == book_.all().end() || !found->second.end.has_value()) {
        Report(absl::StrCat("the account of ", account.request, " is closed before its end"));
      }
      if (!closed_.insert(account.request).second) {
        Report(absl::StrCat("the account of ", account.request, " is closed twice"));
      }
      for (const double seconds : account.work.seconds) {
        if (seconds < 0) Report(absl::StrCat("request ", account.request, " used ", seconds, " s"));
      }
      accounts_ += account.work;
    }
  }

  // Everything has ended and the ranks are idle. `shared`: GPU-seconds of all answered steps with
  // rows; `untold`: those since the ranks' last heartbeats.
  void Finish(double shared, double untold) {
    if (std::abs(accounts_.total() - shared) > 1e-9 * (1 + shared)) {
      Report(absl::StrCat("rows took ", shared, " GPU-seconds, requests used ", accounts_.total()));
    }
    for (const auto& [id, booked] : book_.all()) {
      if (booked.end.has_value() && !closed_.contains(id)) {
        Report(absl::StrCat("the account of ", id, " was never closed"));
      }
    }
    double charged = 0;
    for (size_t kind = 0; kind < kNumGpuKinds; ++kind) charged += charged_[kind];
    for (size_t kind = 0; kind < kNumWorkKinds; ++kind) {
      if (std::abs(charged_[kind] - accounts_.seconds[kind]) <= 1e-9 * (1 + charged_[kind]))
        continue;
      Report(absl::StrCat("tenants were charged ", charged_[kind], " s of ",
                          GpuKindName(static_cast<GpuKind>(kind)), ", requests ",
                          accounts_.seconds[kind]));
    }
    if (charged > wall_ + 1e-6 * wall_ || charged < wall_ - untold) {
      Report(absl::StrCat("of ", wall_, " GPU-seconds ", charged, " have an owner; at most ",
                          untold, " may not be told yet"));
    }
  }

 private:
  void Report(std::string text) { violations_.Report(Checker::kLedger, std::move(text)); }

  void Take(const GpuCharge& charge) {
    if (charge.seconds < -1e-9) Report(absl::StrCat("a charge of ", charge.seconds, " s"));
    if (charge.tenant.empty() == (charge.kind < GpuKind::kPadding)) {
      Report(absl::StrCat(GpuKindName(charge.kind), " of tenant '", charge.tenant, "'"));
    }
    charged_[static_cast<size_t>(charge.kind)] += charge.seconds;
  }

  const RequestBook& book_;
  Violations& violations_;
  std::set<RequestId> closed_;
  Work accounts_;
  GpuSeconds charged_ = {};
  double wall_ = 0;
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_ACCOUNT_CHECK_H_
