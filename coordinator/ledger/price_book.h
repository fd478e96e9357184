// What an hour of each kind of device costs, from a YAML file (deploy/prices/example.yaml shows
// every field), and what a request costs by that. Immutable; any thread.
//
// A device is priced by the first entry whose name fits and whose dates hold. Without one it has no
// price: nothing is ever made up.

#ifndef TESSERA_COORDINATOR_LEDGER_PRICE_BOOK_H_
#define TESSERA_COORDINATOR_LEDGER_PRICE_BOOK_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/ledger/book/usage_record.h"
#include "coordinator/ledger/cost.h"

namespace tessera {

inline constexpr size_t kDevicePricesMax = 1000;

// Who pays for devices that wait. Idle time is shown apart in either case.
enum class IdlePolicy {
  kHouse,  // nobody but the owner
  kUsage,  // shared by what everybody used; also shown with its share in
};

struct DevicePrice {
  std::string name;  // pattern of device names: "NVIDIA H200*", "cpu*"
  absl::Time from = absl::InfinitePast();
  absl::Time until = absl::InfiniteFuture();  // from there on no more
  // Money per hour of one device that is there, busy or not, with its share of CPU and network.
  double hour = 0;
  bool owned = false;        // `hour` was worked out of what the device cost
  double watts = 0;          // rated, of one busy device; 0: not known
  double kilowatt_hour = 0;  // money; 0: power is in `hour`
  double pue = 1;            // power of the building per power of the device
};

class PriceBook {
 public:
  // Knows no price.
  PriceBook() = default;
  // INVALID_ARGUMENT naming line and field.
  static absl::StatusOr<PriceBook> Parse(std::string_view yaml);
  // The error names the file too.
  static absl::StatusOr<PriceBook> Read(const std::string& path);

  const std::string& currency() const { return currency_; }
  double overhead() const { return overhead_; }
  IdlePolicy idle() const { return idle_; }
  const std::vector<DevicePrice>& devices() const { return devices_; }

  // Null: no price is known.
  const DevicePrice* Find(std::string_view device, absl::Time time) const;
  // Of one device, energy not counted; 0 where no price is known.
  double GpuHour(std::string_view device, absl::Time time) const;
  // Energy of one busy device at its rated power, joules per second; 0 where it is not known.
  double Watts(std::string_view device, absl::Time time) const;
  // Money for energy, with what the building adds.
  double EnergyCost(std::string_view device, absl::Time time, double joules) const;

  // By the prices of `time`. The record's energy counts where it has any, else its seconds at rated
  // power; of the record's cost nothing is read.
  Cost CostOf(const UsageRecord& record, std::string_view device, absl::Time time) const;

 private:
  std::string currency_ = kNoCurrency;
  double overhead_ = 0;  // share of the device price: CPU, memory, network, control plane
  IdlePolicy idle_ = IdlePolicy::kHouse;
  std::vector<DevicePrice> devices_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_PRICE_BOOK_H_
