// What becomes of the engine's usage records and of its devices' time: each record is priced,
// written to the usage log, and added to the totals since the start; device time is added up by
// model. Told on the engine thread, which it never holds up; asked on any.

#ifndef TESSERA_COORDINATOR_LEDGER_USAGE_BOOK_H_
#define TESSERA_COORDINATOR_LEDGER_USAGE_BOOK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/ledger/api_prices.h"
#include "coordinator/ledger/book/ledger.h"
#include "coordinator/ledger/book/usage_record.h"
#include "coordinator/ledger/pricing.h"
#include "coordinator/ledger/usage_log.h"
#include "coordinator/ledger/usage_totals.h"

namespace tessera {

// All the time of a model's devices since the start.
struct ModelTime {
  std::string model;
  std::string device;  // name, as prices mean it; empty: not known yet
  uint32_t ranks = 0;
  GpuSeconds seconds = {};  // by GpuKind
  double wall_seconds = 0;  // ranks x time; the sum of `seconds`, but for what is still running
  double idle_cost = 0;     // money for idle seconds, at the prices of their time
  double other_cost = 0;    // and for loading, recovery and what else is nobody's

  double idle_seconds() const;
  Capacity ToCapacity(const PriceBook& book, absl::Time now) const;
};

class UsageBook {
 public:
  // `models` by number, each on `ranks` devices. `log` may be null: then only totals since the
  // start are kept. Everything must outlive the book.
  UsageBook(std::vector<std::string> models, uint32_t ranks, const Pricing& pricing, UsageLog* log,
            const Clock& clock);

  // Sinks of the engine's ledger.
  void Take(UsageRecord record) ABSL_LOCKS_EXCLUDED(mutex_);
  void Charge(const GpuCharge& charge) ABSL_LOCKS_EXCLUDED(mutex_);
  void AddWall(uint32_t model, double seconds) ABSL_LOCKS_EXCLUDED(mutex_);

  // By tenant, model, adapter, device and day.
  UsageTotals Totals() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<ModelTime> Times() const ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Time started() const { return started_; }
  const Pricing& pricing() const { return pricing_; }
  UsageLog* log() const { return log_; }

 private:
  const Pricing& pricing_;
  UsageLog* const log_;
  const Clock& clock_;
  const absl::Time started_;
  mutable absl::Mutex mutex_;
  UsageTotals totals_ ABSL_GUARDED_BY(mutex_);
  std::vector<ModelTime> times_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_USAGE_BOOK_H_
