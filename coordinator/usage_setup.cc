// See usage_setup.h.

#include "coordinator/usage_setup.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "base/status.h"

namespace tessera {

absl::StatusOr<std::unique_ptr<UsageSetup>> UsageSetup::Open(const CoordinatorOptions& options,
                                                             const std::string& run,
                                                             std::vector<std::string> models,
                                                             uint32_t ranks, api::AuditLog& audit,
                                                             const Clock& clock, Metrics& metrics) {
  std::unique_ptr<UsageSetup> setup(new UsageSetup(models, clock, metrics));
  // Whoever looks at how they grow must see them before they do.
  for (uint32_t model = 0; model < models.size(); ++model) {
    for (const GpuKind kind : {GpuKind::kRecovery, GpuKind::kLoad, GpuKind::kIdleBubble,
                               GpuKind::kIdleHost, GpuKind::kIdleNone}) {
      metrics.AddGpuSeconds(model, "", GpuKindName(kind), 0);
    }
  }
  TESSERA_ASSIGN_OR_RETURN(setup->pricing_, Pricing::Open(options.price_file, options.api_prices));
  if (!options.usage_dir.empty()) {
    UsageLogOptions log;
    log.dir = options.usage_dir;
    log.run = run;
    TESSERA_ASSIGN_OR_RETURN(setup->log_, UsageLog::Open(std::move(log), clock));
  }
  setup->book_ = std::make_unique<UsageBook>(std::move(models), ranks, *setup->pricing_,
                                             setup->log_.get(), clock);
  if (options.admin_listen.empty()) return setup;
  TESSERA_ASSIGN_OR_RETURN(setup->admin_, AdminServer::Open({.address = options.admin_listen,
                                                             .token_file = options.admin_token_file,
                                                             .audit = &audit},
                                                            *setup->book_, clock, metrics));
  TESSERA_ASSIGN_OR_RETURN(setup->admin_address_, setup->admin_->Start());
  spdlog::info("admin API {}", setup->admin_address_);
  return setup;
}

LedgerSinks UsageSetup::Sinks() {
  return {.charge =
              [this](const GpuCharge& charge) {
                metrics_.AddGpuSeconds(charge.model, charge.tenant, GpuKindName(charge.kind),
                                       charge.seconds);
                book_->Charge(charge);
              },
          .wall =
              [this](uint32_t model, double seconds) {
                metrics_.model(model).gpu_wall_seconds->Increment(seconds);
                book_->AddWall(model, seconds);
              },
          .record = [this](UsageRecord record) { book_->Take(std::move(record)); }};
}

void UsageSetup::ShowPrice(uint32_t model) {
  const auto book = pricing_->book();
  const std::string device = pricing_->DeviceOf(models_.at(model));
  const DevicePrice* price = book->Find(device, clock_.Now());
  if (price != nullptr) metrics_.SetGpuHourlyPrice(model, book->currency(), price->hour);
}

void UsageSetup::Reload(bool forced) {
  if (!has_files()) return;
  pricing_->Reload(forced);
  // Prices also change because a day begins.
  for (uint32_t model = 0; model < models_.size(); ++model) ShowPrice(model);
}

void UsageSetup::Tell(const Notice& notice) {
  if (notice.kind != Notice::Kind::kReady) return;
  const std::string& model = models_.at(notice.group);  // a model has one group, of its index
  pricing_->SetDevice(model, notice.device);
  ShowPrice(notice.group);
  if (has_files() && pricing_->book()->Find(notice.device, clock_.Now()) == nullptr) {
    spdlog::warn("model {} runs on `{}`, which no price is known for: its usage is counted without",
                 model, notice.device);
  }
}

void UsageSetup::Close() {
  if (admin_ != nullptr) admin_->Stop();
  if (log_ == nullptr) return;
  const absl::Status status = log_->Close(kUsageCloseLimit);
  if (!status.ok()) spdlog::error("{}", std::string(status.message()));
}

}  // namespace tessera
