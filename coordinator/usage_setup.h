// Opens what belongs to usage and cost, as named on the command line: prices, the usage log, the
// book of totals, the admin API; and connects them with the engine's ledger. On main's thread; the
// sinks are called on the engine's, Tell on any.

#ifndef TESSERA_COORDINATOR_USAGE_SETUP_H_
#define TESSERA_COORDINATOR_USAGE_SETUP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/admin/admin_server.h"
#include "coordinator/api/audit.h"
#include "coordinator/cluster/notice.h"
#include "coordinator/ledger/book/ledger.h"
#include "coordinator/ledger/pricing.h"
#include "coordinator/ledger/usage_book.h"
#include "coordinator/ledger/usage_log.h"
#include "coordinator/options.h"
#include "coordinator/telemetry/metrics.h"

namespace tessera {

// So long the end waits for usage entries to reach the disk.
inline constexpr absl::Duration kUsageCloseLimit = absl::Seconds(5);

class UsageSetup {
 public:
  // `run` names this start of the coordinator, for ever. `ranks`: of one model. Opens the admin API
  // as well. The error names the flag, the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<UsageSetup>> Open(const CoordinatorOptions& options,
                                                          const std::string& run,
                                                          std::vector<std::string> models,
                                                          uint32_t ranks, api::AuditLog& audit,
                                                          const Clock& clock, Metrics& metrics);

  // Must not outlive this.
  LedgerSinks Sinks();
  const Pricing& pricing() const { return *pricing_; }
  const std::string& admin_address() const { return admin_address_; }  // empty: there is none

  bool has_files() const { return pricing_->has_files(); }
  // Takes over price files that have changed, or all of them when `forced`.
  void Reload(bool forced);
  // Which devices a model's group has.
  void Tell(const Notice& notice);
  // After the engine has stopped: nothing is told any more. What could not be written is logged.
  void Close();

 private:
  UsageSetup(std::vector<std::string> models, const Clock& clock, Metrics& metrics)
      : models_(std::move(models)), clock_(clock), metrics_(metrics) {}
  void ShowPrice(uint32_t model);

  const std::vector<std::string> models_;
  const Clock& clock_;
  Metrics& metrics_;
  std::unique_ptr<Pricing> pricing_;
  std::unique_ptr<UsageLog> log_;
  std::unique_ptr<UsageBook> book_;
  std::unique_ptr<AdminServer> admin_;
  std::string admin_address_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_USAGE_SETUP_H_
