// See the header.

#include "coordinator/ledger/usage_book.h"

#include <utility>

#include "base/check.h"

namespace tessera {
namespace {

bool IsIdle(GpuKind kind) { return kind >= GpuKind::kIdleBubble; }

std::vector<UsageField> AllUsageFields() {
  return {UsageField::kTenant, UsageField::kModel, UsageField::kAdapter, UsageField::kDevice,
          UsageField::kDay};
}

}  // namespace

double ModelTime::idle_seconds() const {
  double sum = 0;
  for (size_t i = 0; i < seconds.size(); ++i) {
    if (IsIdle(static_cast<GpuKind>(i))) sum += seconds[i];
  }
  return sum;
}

Capacity ModelTime::ToCapacity(const PriceBook& book, absl::Time now) const {
  return {.devices = static_cast<double>(ranks),
          .hour = ranks * book.GpuHour(device, now),
          .gpu_seconds = wall_seconds,
          .idle_seconds = idle_seconds(),
          .idle_cost = idle_cost};
}

UsageBook::UsageBook(std::vector<std::string> models, uint32_t ranks, const Pricing& pricing,
                     UsageLog* log, const Clock& clock)
    : pricing_(pricing),
      log_(log),
      clock_(clock),
      started_(clock.Now()),
      totals_(AllUsageFields()) {
  for (std::string& model : models) {
    times_.push_back({.model = std::move(model), .device = "", .ranks = ranks});
  }
}

void UsageBook::Take(UsageRecord record) {
  if (record.energy_joules == 0) record.energy_joules = pricing_.RatedEnergy(record);
  std::string device = pricing_.DeviceOf(record.model);
  Cost cost = pricing_.CostOf(record);
  UsageEntry entry = MakeUsageEntry(std::move(record), std::move(device), std::move(cost));
  {
    absl::MutexLock lock(&mutex_);
    totals_.Add(entry);
  }
  if (log_ != nullptr) log_->Append(std::move(entry));
}

void UsageBook::Charge(const GpuCharge& charge) {
  const std::shared_ptr<const PriceBook> book = pricing_.book();
  absl::MutexLock lock(&mutex_);
  TESSERA_CHECK(charge.model < times_.size()) << "model " << charge.model;
  ModelTime& time = times_[charge.model];
  time.seconds[static_cast<size_t>(charge.kind)] += charge.seconds;
  const double cost =
      charge.seconds / 3600 * book->GpuHour(pricing_.DeviceOf(time.model), clock_.Now());
  if (IsIdle(charge.kind)) {
    time.idle_cost += cost;
  } else if (charge.kind >= GpuKind::kPadding) {
    time.other_cost += cost;
  }
}

void UsageBook::AddWall(uint32_t model, double seconds) {
  absl::MutexLock lock(&mutex_);
  TESSERA_CHECK(model < times_.size()) << "model " << model;
  times_[model].wall_seconds += seconds;
}

UsageTotals UsageBook::Totals() const {
  absl::MutexLock lock(&mutex_);
  return totals_;
}

std::vector<ModelTime> UsageBook::Times() const {
  absl::MutexLock lock(&mutex_);
  std::vector<ModelTime> times = times_;
  for (ModelTime& time : times) time.device = pricing_.DeviceOf(time.model);
  return times;
}

}  // namespace tessera
