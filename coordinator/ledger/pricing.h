// The prices that hold now: the price book and the table of API prices, read again when their files
// change, and which device each model runs on. Asked on any thread; polled and told by main.

#ifndef TESSERA_COORDINATOR_LEDGER_PRICING_H_
#define TESSERA_COORDINATOR_LEDGER_PRICING_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/file_watch.h"
#include "coordinator/ledger/api_prices.h"
#include "coordinator/ledger/book/usage_record.h"
#include "coordinator/ledger/cost.h"
#include "coordinator/ledger/price_book.h"

namespace tessera {

class Pricing {
 public:
  // Empty: there is no such file, and no price. The error names the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<Pricing>> Open(const std::string& price_file,
                                                       const std::string& api_price_file);

  bool has_files() const { return price_watch_.has_value() || api_watch_.has_value(); }
  // Takes over files that have changed, or all of them when `forced`. A damaged one is logged, and
  // what it said before stays. One thread.
  void Reload(bool forced) ABSL_LOCKS_EXCLUDED(mutex_);

  // Which devices the ranks of a model run on, as price names mean it: "NVIDIA H200", "cpu AMD
  // ...".
  void SetDevice(const std::string& model, const std::string& device) ABSL_LOCKS_EXCLUDED(mutex_);
  std::string DeviceOf(const std::string& model) const ABSL_LOCKS_EXCLUDED(mutex_);

  // What a request of record.model costs. By the prices at its arrival, when its client could have
  // asked for them, so that it is told the same as is written down.
  Cost CostOf(const UsageRecord& record) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Its energy at rated power, joules; for devices that do not measure it.
  double RatedEnergy(const UsageRecord& record) const ABSL_LOCKS_EXCLUDED(mutex_);
  std::shared_ptr<const PriceBook> book() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::shared_ptr<const ApiPrices> api_prices() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Pricing() = default;
  // Where the file has changed; what it said before stays when it cannot be used.
  absl::Status LoadBook() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status LoadApiPrices() ABSL_LOCKS_EXCLUDED(mutex_);

  std::optional<FileWatch> price_watch_;
  std::optional<FileWatch> api_watch_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const PriceBook> book_ ABSL_GUARDED_BY(mutex_) = std::make_shared<PriceBook>();
  std::shared_ptr<const ApiPrices> api_prices_ ABSL_GUARDED_BY(mutex_) =
      std::make_shared<ApiPrices>();
  absl::flat_hash_map<std::string, std::string> devices_ ABSL_GUARDED_BY(mutex_);  // by model
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_PRICING_H_
