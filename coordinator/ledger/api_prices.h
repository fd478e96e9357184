// What others charge for tokens, as the operator wrote it down (deploy/prices/api-example.yaml),
// and what ours cost beside that. Pure; any thread.

#ifndef TESSERA_COORDINATOR_LEDGER_API_PRICES_H_
#define TESSERA_COORDINATOR_LEDGER_API_PRICES_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/ledger/cost.h"
#include "coordinator/ledger/usage_totals.h"

namespace tessera {

inline constexpr size_t kApiPricesMax = 1000;

// Money per million tokens.
struct TokenRates {
  double input = 0;   // computed prompt tokens
  double cached = 0;  // prompt tokens that were there already
  double output = 0;
  double blended = 0;  // all money over prompt and output tokens
};

struct ApiModelPrice {
  std::string name;
  double input = 0;  // money per million tokens, as are the next two
  double cached = 0;
  double output = 0;
  std::vector<std::string> compare_with = {"*"};  // patterns of the names of our models
};

class ApiPrices {
 public:
  // Compares with nothing.
  ApiPrices() = default;
  // INVALID_ARGUMENT naming line and field.
  static absl::StatusOr<ApiPrices> Parse(std::string_view yaml);
  // The error names the file too.
  static absl::StatusOr<ApiPrices> Read(const std::string& path);

  const std::string& currency() const { return currency_; }
  // What running this oneself takes beside the devices, money per month.
  double operations_month() const { return operations_month_; }
  const std::vector<ApiModelPrice>& models() const { return models_; }
  std::vector<ApiModelPrice> For(std::string_view our_model) const;

 private:
  std::string currency_ = kNoCurrency;
  double operations_month_ = 0;
  std::vector<ApiModelPrice> models_;
};

// The devices of a model, whether they work or wait.
struct Capacity {
  double devices = 0;
  double hour = 0;          // money per hour of all of them, energy not counted
  double gpu_seconds = 0;   // wall time x devices, of which:
  double idle_seconds = 0;  // nothing to do
  double idle_cost = 0;     // money for idle_seconds
};

struct ApiComparison {
  std::string name;
  TokenRates api;         // `blended` at our mix of tokens
  double api_cost = 0;    // for the same tokens there
  double our_cost = 0;    // that tenants pay
  double waste_cost = 0;  // that the house pays for recomputed and overrun tokens, failed requests
  double idle_cost = 0;   // that the house pays for waiting devices
  // Tokens per month, of our mix, at which the devices with their operation cost what the API asks.
  // Nothing: the energy of a token alone costs more.
  std::optional<double> break_even_tokens_month;
  // Those over what the devices would compute in a month as busily as they were while they worked.
  // Above 1: this mix never breaks even on these devices. Nothing: not known.
  std::optional<double> break_even_utilization;
};

// Of requests that had a price. Zeros where there were no tokens of a kind.
TokenRates RatesOf(const UsageSums& ours);
// `ours` has tokens and a price, in the currency of `api`.
ApiComparison CompareWithApi(const UsageSums& ours, const Capacity& capacity,
                             const ApiModelPrice& api, double operations_month);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_API_PRICES_H_
