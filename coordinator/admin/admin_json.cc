// What GET /prices, /groups and /comparison answer; see admin_routes.h. Idle time is always shown
// beside what tenants pay, never in it.

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "coordinator/admin/admin_routes.h"
#include "coordinator/ledger/api_prices.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

constexpr double kMillionTokens = 1e6;

std::string DumpJson(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

ordered_json JsonTime(absl::Time time) {
  if (time == absl::InfinitePast() || time == absl::InfiniteFuture()) return nullptr;
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
}

ordered_json JsonOrNull(std::optional<double> value) {
  return value.has_value() ? ordered_json(*value) : ordered_json(nullptr);
}

ordered_json RatesJson(const TokenRates& rates) {
  return {{"input", rates.input},
          {"cached", rates.cached},
          {"output", rates.output},
          {"blended", rates.blended}};
}

ordered_json TimeJson(const ModelTime& time, const PriceBook& book, absl::Time now) {
  ordered_json json;
  json["model"] = time.model;
  json["device"] = time.device;
  json["ranks"] = time.ranks;
  json["wall_gpu_seconds"] = time.wall_seconds;
  for (size_t i = 0; i < kNumGpuKinds; ++i) {
    json["gpu_seconds"][GpuKindName(static_cast<GpuKind>(i))] = time.seconds[i];
  }
  const bool priced = book.Find(time.device, now) != nullptr;
  json["currency"] = priced ? book.currency() : kNoCurrency;
  json["idle_cost"] = time.idle_cost;
  json["other_cost"] = time.other_cost;
  return json;
}

// What a model's requests cost in one currency, beside what its devices and others' APIs do.
ordered_json ModelComparison(const UsageSums& ours, const ModelTime& time, const PriceBook& book,
                             const ApiPrices& apis, absl::Time now) {
  const Capacity capacity = time.ToCapacity(book, now);
  ordered_json json;
  json["model"] = time.model;
  json["currency"] = ours.cost.currency;
  json["requests"] = ours.requests;
  json["prompt_tokens"] = ours.prompt_tokens;
  json["cached_tokens"] = ours.cached_tokens;
  json["output_tokens"] = ours.output_tokens;
  json["cost"] = ours.cost.total();
  json["energy_cost"] = ours.cost.energy;
  json["saved_cost"] = ours.cost.saved;
  json["waste_cost"] = ours.cost.waste;
  json["idle_cost"] = time.idle_cost;
  json["other_cost"] = time.other_cost;
  json["per_million"] = RatesJson(RatesOf(ours));
  const double all = ours.cost.total() + ours.cost.waste + time.idle_cost + time.other_cost;
  const bool has_tokens = ours.tokens() > 0 && ours.cost.priced;
  json["per_million"]["blended_with_idle"] = JsonOrNull(
      has_tokens ? std::optional(all / static_cast<double>(ours.tokens()) * kMillionTokens)
                 : std::nullopt);
  json["devices"] = capacity.devices;
  json["devices_hour"] = capacity.hour;
  json["utilization"] =
      JsonOrNull(capacity.gpu_seconds > 0 ? std::optional(ours.work.total() / capacity.gpu_seconds)
                                          : std::nullopt);
  json["apis"] = ordered_json::array();
  if (!has_tokens || apis.currency() != ours.cost.currency) return json;
  for (const ApiModelPrice& api : apis.For(time.model)) {
    const ApiComparison compared = CompareWithApi(ours, capacity, api, apis.operations_month());
    ordered_json row;
    row["name"] = compared.name;
    row["per_million"] = RatesJson(compared.api);
    row["cost"] = compared.api_cost;
    row["break_even_tokens_month"] = JsonOrNull(compared.break_even_tokens_month);
    row["break_even_utilization"] = JsonOrNull(compared.break_even_utilization);
    json["apis"].push_back(std::move(row));
  }
  return json;
}

// Each tenant's part of what nobody used, by the device time it used itself.
ordered_json IdleShares(const UsageTotals& by_tenant, const std::vector<ModelTime>& times) {
  std::map<std::string, double> used;  // GPU-seconds by model
  for (const auto& [key, sums] : by_tenant.rows()) used[key[1]] += sums.work.total();
  ordered_json shares = ordered_json::array();
  for (const auto& [key, sums] : by_tenant.rows()) {
    double idle_cost = 0;
    for (const ModelTime& time : times) {
      if (time.model == key[1]) idle_cost = time.idle_cost;
    }
    const double seconds = sums.work.total();
    shares.push_back({{"tenant", key[0]},
                      {"model", key[1]},
                      {"currency", key[2]},
                      {"cost", sums.cost.total()},
                      {"idle_share", seconds > 0 ? idle_cost * seconds / used[key[1]] : 0.0}});
  }
  return shares;
}

}  // namespace

std::string PricesJson(const AdminDoor& door) {
  const Pricing& pricing = door.book.pricing();
  const auto book = pricing.book();
  const auto apis = pricing.api_prices();
  const absl::Time now = door.clock.Now();
  ordered_json json;
  json["currency"] = book->currency();
  json["overhead"] = book->overhead();
  json["idle"] = book->idle() == IdlePolicy::kUsage ? "usage" : "house";
  json["devices"] = ordered_json::array();
  for (const DevicePrice& price : book->devices()) {
    json["devices"].push_back({{"name", price.name},
                               {"from", JsonTime(price.from)},
                               {"until", JsonTime(price.until)},
                               {"owned", price.owned},
                               {"hour", price.hour},
                               {"rated_watts", price.watts},
                               {"kilowatt_hour", price.kilowatt_hour},
                               {"pue", price.pue}});
  }
  json["models"] = ordered_json::array();
  for (const ModelTime& time : door.book.Times()) {
    const DevicePrice* price = book->Find(time.device, now);
    json["models"].push_back({{"model", time.model},
                              {"device", time.device},
                              {"priced", price != nullptr},
                              {"hour", price == nullptr ? 0 : price->hour}});
  }
  json["apis"] = ordered_json::array();
  for (const ApiModelPrice& api : apis->models()) {
    json["apis"].push_back({{"name", api.name},
                            {"currency", apis->currency()},
                            {"input", api.input},
                            {"cached", api.cached},
                            {"output", api.output},
                            {"compare_with", api.compare_with}});
  }
  return DumpJson(json);
}

std::string GroupsJson(const AdminDoor& door) {
  const auto book = door.book.pricing().book();
  ordered_json json;
  json["since"] = JsonTime(door.book.started());
  json["models"] = ordered_json::array();
  for (const ModelTime& time : door.book.Times()) {
    json["models"].push_back(TimeJson(time, *book, door.clock.Now()));
  }
  if (const UsageLog* log = door.book.log(); log != nullptr) {
    const UsageLogStats stats = log->Stats();
    json["usage_log"] = {
        {"written_entries", stats.written},
        {"waiting_entries", stats.waiting},
        {"merged_requests", stats.merged},
        {"error", stats.error.empty() ? ordered_json() : ordered_json(stats.error)}};
  }
  return DumpJson(json);
}

std::string ComparisonJson(const AdminDoor& door) {
  const auto book = door.book.pricing().book();
  const auto apis = door.book.pricing().api_prices();
  const std::vector<ModelTime> times = door.book.Times();
  const UsageTotals all = door.book.Totals();
  UsageTotals by_model({UsageField::kModel});
  by_model.Add(all);
  ordered_json json;
  json["since"] = JsonTime(door.book.started());
  json["models"] = ordered_json::array();
  for (const ModelTime& time : times) {
    for (const auto& [key, sums] : by_model.rows()) {
      if (key[0] != time.model) continue;
      json["models"].push_back(ModelComparison(sums, time, *book, *apis, door.clock.Now()));
    }
  }
  if (book->idle() == IdlePolicy::kUsage) {
    UsageTotals by_tenant({UsageField::kTenant, UsageField::kModel});
    by_tenant.Add(all);
    json["tenants"] = IdleShares(by_tenant, times);
  }
  return DumpJson(json);
}

}  // namespace tessera
