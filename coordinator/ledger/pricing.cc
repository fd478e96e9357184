// See the header.

#include "coordinator/ledger/pricing.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "base/status.h"

namespace tessera {

absl::StatusOr<std::unique_ptr<Pricing>> Pricing::Open(const std::string& price_file,
                                                       const std::string& api_price_file) {
  std::unique_ptr<Pricing> pricing(new Pricing());
  if (!price_file.empty()) pricing->price_watch_.emplace(price_file);
  if (!api_price_file.empty()) pricing->api_watch_.emplace(api_price_file);
  TESSERA_RETURN_IF_ERROR(pricing->LoadBook());
  TESSERA_RETURN_IF_ERROR(pricing->LoadApiPrices());
  if (price_file.empty()) {
    spdlog::info("no --price-file: GPU-seconds are counted, money is not");
  }
  return pricing;
}

absl::Status Pricing::LoadBook() {
  if (!price_watch_.has_value() || !price_watch_->Changed()) return absl::OkStatus();
  TESSERA_ASSIGN_OR_RETURN(PriceBook book, PriceBook::Read(price_watch_->path()));
  spdlog::info("{} device prices in {} in {}", book.devices().size(), book.currency(),
               price_watch_->path());
  absl::MutexLock lock(&mutex_);
  book_ = std::make_shared<const PriceBook>(std::move(book));
  return absl::OkStatus();
}

absl::Status Pricing::LoadApiPrices() {
  if (!api_watch_.has_value() || !api_watch_->Changed()) return absl::OkStatus();
  TESSERA_ASSIGN_OR_RETURN(ApiPrices prices, ApiPrices::Read(api_watch_->path()));
  spdlog::info("{} API prices to compare with in {}", prices.models().size(), api_watch_->path());
  absl::MutexLock lock(&mutex_);
  api_prices_ = std::make_shared<const ApiPrices>(std::move(prices));
  return absl::OkStatus();
}

void Pricing::Reload(bool forced) {
  if (forced && price_watch_.has_value()) price_watch_->Forget();
  if (forced && api_watch_.has_value()) api_watch_->Forget();
  for (const absl::Status& status : {LoadBook(), LoadApiPrices()}) {
    if (status.ok()) continue;
    spdlog::error("{}; the prices from before stay in use", std::string(status.message()));
  }
}

void Pricing::SetDevice(const std::string& model, const std::string& device) {
  absl::MutexLock lock(&mutex_);
  devices_[model] = device;
}

std::string Pricing::DeviceOf(const std::string& model) const {
  absl::MutexLock lock(&mutex_);
  const auto found = devices_.find(model);
  return found == devices_.end() ? std::string() : found->second;
}

Cost Pricing::CostOf(const UsageRecord& record) const {
  return book()->CostOf(record, DeviceOf(record.model), record.arrival);
}

double Pricing::RatedEnergy(const UsageRecord& record) const {
  return record.work.total() * book()->Watts(DeviceOf(record.model), record.arrival);
}

std::shared_ptr<const PriceBook> Pricing::book() const {
  absl::MutexLock lock(&mutex_);
  return book_;
}

std::shared_ptr<const ApiPrices> Pricing::api_prices() const {
  absl::MutexLock lock(&mutex_);
  return api_prices_;
}

}  // namespace tessera
