// See the header.

#include "coordinator/ledger/price_book.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/ledger/yaml_file.h"

namespace tessera {
namespace {

constexpr double kMoneyMax = 1e9;  // of any amount in the file
constexpr double kHoursPerYear = 8760;
constexpr double kSecondsPerHour = 3600;
constexpr double kJoulesPerKilowattHour = 3.6e6;

// What an hour of a device costs that was bought: what it loses in value over the hours it can be
// used in, and what running it takes, power apart.
absl::Status ReadOwned(const YamlSection& owned, double* hour) {
  TESSERA_RETURN_IF_ERROR(
      owned.CheckFields({"capital", "residual", "years", "availability", "operations_hour"}));
  for (const char* needed : {"capital", "years"}) {
    if (!owned.Has(needed)) return owned.Error(needed, "is needed");
  }
  double capital = 0, residual = 0, years = 0, availability = 1, operations = 0;
  TESSERA_RETURN_IF_ERROR(owned.ReadNumber("capital", 0, kMoneyMax, &capital));
  TESSERA_RETURN_IF_ERROR(owned.ReadNumber("residual", 0, kMoneyMax, &residual));
  TESSERA_RETURN_IF_ERROR(owned.ReadNumber("years", 0.1, 50, &years));
  TESSERA_RETURN_IF_ERROR(owned.ReadNumber("availability", 0.01, 1, &availability));
  TESSERA_RETURN_IF_ERROR(owned.ReadNumber("operations_hour", 0, kMoneyMax, &operations));
  if (residual > capital) {
    return owned.Error("residual",
                       absl::StrCat("is ", residual, ", more than the capital ", capital));
  }
  *hour = (capital - residual) / (years * kHoursPerYear * availability) + operations;
  return absl::OkStatus();
}

absl::Status ReadPower(const YamlSection& power, DevicePrice* price) {
  TESSERA_RETURN_IF_ERROR(power.CheckFields({"rated_watts", "kilowatt_hour", "pue"}));
  if (!power.Has("rated_watts")) return power.Error("rated_watts", "is needed");
  TESSERA_RETURN_IF_ERROR(power.ReadNumber("rated_watts", 0, 1e6, &price->watts));
  TESSERA_RETURN_IF_ERROR(power.ReadNumber("kilowatt_hour", 0, kMoneyMax, &price->kilowatt_hour));
  return power.ReadNumber("pue", 1, 10, &price->pue);
}

absl::StatusOr<DevicePrice> ReadDevice(const YamlSection& section) {
  TESSERA_RETURN_IF_ERROR(section.CheckFields({"name", "from", "until", "hour", "owned", "power"}));
  DevicePrice price;
  if (!section.Has("name")) return section.Error("name", "says which devices, as `NVIDIA H200*`");
  TESSERA_RETURN_IF_ERROR(section.ReadText("name", &price.name));
  TESSERA_RETURN_IF_ERROR(section.ReadTime("from", &price.from));
  TESSERA_RETURN_IF_ERROR(section.ReadTime("until", &price.until));
  if (price.until <= price.from) return section.Error("until", "must be after `from`");
  price.owned = section.Has("owned");
  if (price.owned == section.Has("hour")) {
    return section.Error(price.owned ? "owned" : "hour",
                         "must be the one of `hour` (rented) and `owned` that holds");
  }
  TESSERA_RETURN_IF_ERROR(section.ReadNumber("hour", 0, kMoneyMax, &price.hour));
  if (price.owned) TESSERA_RETURN_IF_ERROR(ReadOwned(section.Inner("owned"), &price.hour));
  if (section.Has("power")) TESSERA_RETURN_IF_ERROR(ReadPower(section.Inner("power"), &price));
  return price;
}

}  // namespace

absl::StatusOr<PriceBook> PriceBook::Parse(std::string_view yaml) {
  TESSERA_ASSIGN_OR_RETURN(const YAML::Node node, ParseYaml(yaml));
  const YamlSection root(node, "");
  TESSERA_RETURN_IF_ERROR(root.CheckFields({"currency", "overhead", "idle", "devices"}));
  PriceBook book;
  book.currency_.clear();
  TESSERA_RETURN_IF_ERROR(root.ReadText("currency", &book.currency_));
  if (!IsCurrency(book.currency_)) {
    return root.Error("currency", "must be three capital letters, like USD");
  }
  TESSERA_RETURN_IF_ERROR(root.ReadNumber("overhead", 0, 100, &book.overhead_));
  std::string idle = "house";
  TESSERA_RETURN_IF_ERROR(root.ReadText("idle", &idle));
  if (idle != "house" && idle != "usage") {
    return root.Error("idle", "must be `house` or `usage`: who pays for devices that wait");
  }
  book.idle_ = idle == "usage" ? IdlePolicy::kUsage : IdlePolicy::kHouse;
  if (!root.Has("devices")) return root.Error("devices", "must be the list of prices");
  TESSERA_ASSIGN_OR_RETURN(const std::vector<YamlSection> devices,
                           root.List("devices", kDevicePricesMax));
  for (const YamlSection& section : devices) {
    TESSERA_ASSIGN_OR_RETURN(DevicePrice price, ReadDevice(section));
    price.hour *= 1 + book.overhead_;
    book.devices_.push_back(std::move(price));
  }
  return book;
}

absl::StatusOr<PriceBook> PriceBook::Read(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, ReadYamlFile("the price file", path));
  absl::StatusOr<PriceBook> book = Parse(text);
  if (book.ok()) return book;
  return absl::InvalidArgumentError(
      absl::StrCat("the price file ", path, ", ", book.status().message()));
}

const DevicePrice* PriceBook::Find(std::string_view device, absl::Time time) const {
  for (const DevicePrice& price : devices_) {
    if (price.from <= time && time < price.until && FitsPattern(price.name, device)) return &price;
  }
  return nullptr;
}

double PriceBook::GpuHour(std::string_view device, absl::Time time) const {
  const DevicePrice* price = Find(device, time);
  return price == nullptr ? 0 : price->hour;
}

double PriceBook::Watts(std::string_view device, absl::Time time) const {
  const DevicePrice* price = Find(device, time);
  return price == nullptr ? 0 : price->watts;
}

double PriceBook::EnergyCost(std::string_view device, absl::Time time, double joules) const {
  const DevicePrice* price = Find(device, time);
  if (price == nullptr) return 0;
  return joules / kJoulesPerKilowattHour * price->pue * price->kilowatt_hour;
}

Cost PriceBook::CostOf(const UsageRecord& record, std::string_view device, absl::Time time) const {
  Cost cost;
  const DevicePrice* price = Find(device, time);
  if (price == nullptr) return cost;
  cost.priced = true;
  cost.currency = currency_;
  const double seconds = record.work.total();
  const double watts =
      record.energy_joules > 0 && seconds > 0 ? record.energy_joules / seconds : price->watts;
  const double energy_second = watts / kJoulesPerKilowattHour * price->pue * price->kilowatt_hour;
  const double second = price->hour / kSecondsPerHour + energy_second;
  const Work& work = record.work;
  if (record.reason == FinishReason::kError) {
    cost.waste = seconds * second;
    return cost;
  }
  cost.input = work[WorkKind::kPrefill] * second;
  cost.output = work[WorkKind::kDecode] * second;
  cost.energy = (work[WorkKind::kPrefill] + work[WorkKind::kDecode]) * energy_second;
  cost.waste = (work[WorkKind::kRecompute] + work[WorkKind::kOverrun]) * second;
  if (record.prompt_tokens > record.cached_tokens) {
    cost.saved = cost.input * record.cached_tokens / (record.prompt_tokens - record.cached_tokens);
  }
  return cost;
}

}  // namespace tessera
