// Every GPU-second has an owner: what tenants' rows used, what was waste, what was idle and why,
// and what each finished request used. The engine tells it what happens and calls Settle now and
// then; it never decides anything. Engine thread only.
//
// Kept: a few numbers per tenant, model and group, and one record per request between its terminal
// update and the answer to its last row.

#ifndef TESSERA_COORDINATOR_LEDGER_BOOK_LEDGER_H_
#define TESSERA_COORDINATOR_LEDGER_BOOK_LEDGER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/ledger/book/gpu_time.h"
#include "coordinator/ledger/book/usage_record.h"
#include "coordinator/sched/event.h"
#include "coordinator/sched/scheduler.h"

namespace tessera {

inline constexpr absl::Duration kLedgerInterval = absl::Seconds(1);

// GPU-seconds that were spent since the ledger was last settled.
struct GpuCharge {
  uint32_t model = 0;
  std::string tenant;  // empty: nobody's, the kinds from kPadding on
  GpuKind kind = GpuKind::kIdleNone;
  double seconds = 0;
};

// Where the figures go. Called on the engine thread; must not block.
struct LedgerSinks {
  std::function<void(const GpuCharge&)> charge;
  std::function<void(uint32_t model, double seconds)> wall;  // GPU-seconds that have passed
  std::function<void(UsageRecord)> record;
};

class Ledger {
 public:
  // `models` are names by number. Sinks may be empty; without one for records none are kept.
  Ledger(std::vector<std::string> models, LedgerSinks sinks);

  // Of every event, after the scheduler has applied it.
  void Observe(const Event& event, const Scheduler& scheduler, absl::Time now);
  void OnPlan(const cluster::v1::StepPlan& plan, absl::Time now);
  // The terminal update of a request; its record is complete when its account is closed.
  void OnFinished(const Request& request, const RequestUpdate& update, absl::Time now);
  void OnClosed(absl::Span<const ClosedAccount> accounts);
  // Brings the sinks up to date.
  void Settle(Scheduler& scheduler, absl::Time now);
  // The engine stops: rows in flight will not be answered any more.
  void CloseAll();

  size_t open_records() const { return records_.size(); }

 private:
  void Charge(uint32_t model, const std::string& tenant, GpuKind kind, double seconds);
  void Complete(UsageRecord record, const Work& work);

  const std::vector<std::string> models_;
  const LedgerSinks sinks_;
  std::map<uint32_t, GpuTime> groups_;
  std::map<std::pair<uint32_t, std::string>, Work> charged_;  // by model and tenant
  std::map<uint32_t, double> wall_;                           // by group, told so far
  absl::flat_hash_map<RequestId, UsageRecord> records_;       // `work` is that so far
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_BOOK_LEDGER_H_
