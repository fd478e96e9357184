// See the header.

#include "coordinator/ledger/api_prices.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "coordinator/ledger/yaml_file.h"

namespace tessera {
namespace {

constexpr double kTokenMoneyMax = 1e9;
constexpr double kMillion = 1e6;
constexpr double kHoursPerMonth = 730.5;
constexpr double kSecondsPerMonth = kHoursPerMonth * 3600;
constexpr size_t kPatternsMax = 100;

absl::StatusOr<ApiModelPrice> ReadModel(const YamlSection& section) {
  TESSERA_RETURN_IF_ERROR(
      section.CheckFields({"name", "input", "cached", "output", "compare_with"}));
  for (const char* needed : {"name", "input", "output"}) {
    if (!section.Has(needed)) return section.Error(needed, "is needed");
  }
  ApiModelPrice price;
  TESSERA_RETURN_IF_ERROR(section.ReadText("name", &price.name));
  TESSERA_RETURN_IF_ERROR(section.ReadNumber("input", 0, kTokenMoneyMax, &price.input));
  price.cached = price.input;  // an API that has no other price for them
  TESSERA_RETURN_IF_ERROR(section.ReadNumber("cached", 0, kTokenMoneyMax, &price.cached));
  TESSERA_RETURN_IF_ERROR(section.ReadNumber("output", 0, kTokenMoneyMax, &price.output));
  if (section.Has("compare_with")) {
    price.compare_with.clear();
    TESSERA_RETURN_IF_ERROR(section.ReadTexts("compare_with", kPatternsMax, &price.compare_with));
  }
  return price;
}

double PerMillion(double money, uint64_t tokens) {
  return tokens == 0 ? 0 : money / static_cast<double>(tokens) * kMillion;
}

}  // namespace

absl::StatusOr<ApiPrices> ApiPrices::Parse(std::string_view yaml) {
  TESSERA_ASSIGN_OR_RETURN(const YAML::Node node, ParseYaml(yaml));
  const YamlSection root(node, "");
  TESSERA_RETURN_IF_ERROR(root.CheckFields({"currency", "operations_month", "models"}));
  ApiPrices prices;
  prices.currency_.clear();
  TESSERA_RETURN_IF_ERROR(root.ReadText("currency", &prices.currency_));
  if (!IsCurrency(prices.currency_)) {
    return root.Error("currency", "must be three capital letters, like USD");
  }
  TESSERA_RETURN_IF_ERROR(
      root.ReadNumber("operations_month", 0, kTokenMoneyMax, &prices.operations_month_));
  if (!root.Has("models")) return root.Error("models", "must be the list of API prices");
  TESSERA_ASSIGN_OR_RETURN(const std::vector<YamlSection> models,
                           root.List("models", kApiPricesMax));
  for (const YamlSection& section : models) {
    TESSERA_ASSIGN_OR_RETURN(ApiModelPrice price, ReadModel(section));
    prices.models_.push_back(std::move(price));
  }
  return prices;
}

absl::StatusOr<ApiPrices> ApiPrices::Read(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, ReadYamlFile("the API price file", path));
  absl::StatusOr<ApiPrices> prices = Parse(text);
  if (prices.ok()) return prices;
  return absl::InvalidArgumentError(
      absl::StrCat("the API price file ", path, ", ", prices.status().message()));
}

std::vector<ApiModelPrice> ApiPrices::For(std::string_view our_model) const {
  std::vector<ApiModelPrice> found;
  for (const ApiModelPrice& price : models_) {
    const auto fits = [our_model](const std::string& pattern) {
      return FitsPattern(pattern, our_model);
    };
    if (std::any_of(price.compare_with.begin(), price.compare_with.end(), fits)) {
      found.push_back(price);
    }
  }
  return found;
}

TokenRates RatesOf(const UsageSums& ours) {
  return {.input = PerMillion(ours.cost.input, ours.computed_prompt_tokens()),
          .cached = 0,
          .output = PerMillion(ours.cost.output, ours.output_tokens),
          .blended = PerMillion(ours.cost.total(), ours.tokens())};
}

ApiComparison CompareWithApi(const UsageSums& ours, const Capacity& capacity,
                             const ApiModelPrice& api, double operations_month) {
  TESSERA_CHECK(ours.tokens() > 0 && ours.cost.priced);
  const double tokens = static_cast<double>(ours.tokens());
  ApiComparison result;
  result.name = api.name;
  result.api_cost = (static_cast<double>(ours.computed_prompt_tokens()) * api.input +
                     static_cast<double>(ours.cached_tokens) * api.cached +
                     static_cast<double>(ours.output_tokens) * api.output) /
                    kMillion;
  result.api = {.input = api.input,
                .cached = api.cached,
                .output = api.output,
                .blended = PerMillion(result.api_cost, ours.tokens())};
  result.our_cost = ours.cost.total();
  result.waste_cost = ours.cost.waste;
  result.idle_cost = capacity.idle_cost;

  // Device hours are paid whether tokens come or not, energy is paid per token.
  const double per_token = (result.api_cost - ours.cost.energy) / tokens;
  if (per_token <= 0) return result;
  const double break_even = (capacity.hour * kHoursPerMonth + operations_month) / per_token;
  result.break_even_tokens_month = break_even;
  const double busy_seconds = ours.work.total();
  if (busy_seconds > 0 && capacity.devices > 0) {
    const double tokens_month = tokens / busy_seconds * capacity.devices * kSecondsPerMonth;
    result.break_even_utilization = break_even / tokens_month;
  }
  return result;
}

}  // namespace tessera
