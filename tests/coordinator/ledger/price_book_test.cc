// Price files: what they may say, where a wrong one is wrong, which price holds when, and what a
// request costs by that.

#include "coordinator/ledger/price_book.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "coordinator/ledger/pricing.h"
#include "coordinator/ledger/yaml_file.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kGood[] = R"(# of the test
currency: EUR
overhead: 0.25
idle: usage
devices:
  - name: "NVIDIA H200*"
    until: 2026-06-01
    hour: 4
  - name: "NVIDIA H200*"
    from: 2026-06-01
    hour: 3.6
    power: {rated_watts: 700}
  - name: "NVIDIA H100 ??B"
    owned:
      capital: 30000
      residual: 3720
      years: 3
      availability: 0.5
      operations_hour: 0.5
    power:
      rated_watts: 1000
      kilowatt_hour: 0.36
      pue: 1.5
  - name: "cpu*"
    hour: 0
)";

absl::Time Day(const std::string& text) {
  absl::Time time;
  std::string error;
  EXPECT_TRUE(absl::ParseTime("%Y-%m-%d", text, absl::UTCTimeZone(), &time, &error)) << error;
  return time;
}

PriceBook Book(const std::string& yaml = kGood) {
  absl::StatusOr<PriceBook> book = PriceBook::Parse(yaml);
  EXPECT_TRUE(book.ok()) << book.status();
  return book.ok() ? *book : PriceBook();
}

UsageRecord Record() {
  UsageRecord record;
  record.prompt_tokens = 100;
  record.cached_tokens = 75;
  record.output_tokens = 10;
  record.work[WorkKind::kPrefill] = 3600;
  record.work[WorkKind::kDecode] = 7200;
  record.work[WorkKind::kRecompute] = 360;
  record.work[WorkKind::kOverrun] = 36;
  return record;
}

TEST(PriceBookTest, APriceHoldsFromItsFirstDayToTheLastOne) {
  const PriceBook book = Book();
  EXPECT_EQ(book.currency(), "EUR");
  EXPECT_EQ(book.idle(), IdlePolicy::kUsage);
  const absl::Time june = Day("2026-06-01");
  EXPECT_DOUBLE_EQ(book.GpuHour("NVIDIA H200", Day("2020-01-01")), 5.0);
  EXPECT_DOUBLE_EQ(book.GpuHour("NVIDIA H200", june - absl::Nanoseconds(1)), 5.0);
  EXPECT_DOUBLE_EQ(book.GpuHour("NVIDIA H200", june), 4.5);
  EXPECT_DOUBLE_EQ(book.GpuHour("NVIDIA H200 NVL", june), 4.5);
  EXPECT_EQ(book.Find("NVIDIA A100", june), nullptr);
  EXPECT_EQ(book.GpuHour("NVIDIA A100", june), 0);
  EXPECT_EQ(book.Watts("NVIDIA H200", june), 700);
  EXPECT_EQ(book.EnergyCost("NVIDIA H200", june, 3.6e6), 0);  // power is in the rent
}

TEST(PriceBookTest, OwnedDevicesCostWhatTheyLoseAndTake) {
  const PriceBook book = Book();
  const std::string h100 = "NVIDIA H100 80B";
  // (30000 - 3720) / (3 years at half the time) = 2 per hour, 0.5 for operations, a quarter more.
  EXPECT_NEAR(book.GpuHour(h100, Day("2026-01-01")), 2.5 * 1.25, 1e-9);
  EXPECT_NEAR(book.EnergyCost(h100, Day("2026-01-01"), 3.6e6), 1.5 * 0.36, 1e-12);
  EXPECT_TRUE(book.Find(h100, Day("2026-01-01"))->owned);
}

TEST(PriceBookTest, ARequestPaysForItsPromptAndItsAnswer) {
  const Cost cost = Book().CostOf(Record(), "NVIDIA H200", Day("2026-06-01"));
  EXPECT_TRUE(cost.priced);
  EXPECT_EQ(cost.currency, "EUR");
  EXPECT_DOUBLE_EQ(cost.input, 4.5);
  EXPECT_DOUBLE_EQ(cost.output, 9.0);
  EXPECT_DOUBLE_EQ(cost.total(), 13.5);
  EXPECT_DOUBLE_EQ(cost.energy, 0);
  EXPECT_NEAR(cost.waste, 4.5 * 0.11, 1e-12);   // recompute and overrun: the house
  EXPECT_DOUBLE_EQ(cost.saved, 4.5 * 75 / 25);  // three cached tokens for each computed one
}

TEST(PriceBookTest, EnergyIsPartOfWhatIsPaidAndMeasuredWhereItCanBe) {
  const PriceBook book = Book();
  UsageRecord record = Record();
  const absl::Time day = Day("2026-01-01");
  const Cost rated = book.CostOf(record, "NVIDIA H100 80B", day);
  // 3 billed hours at 1 kW, 1.5 for the building, 0.36 per kWh.
  EXPECT_NEAR(rated.energy, 3 * 1.5 * 0.36, 1e-9);
  EXPECT_NEAR(rated.total(), 3 * 3.125 + rated.energy, 1e-9);
  record.energy_joules = record.work.total() * 500;  // half of what it is rated at
  const Cost measured = book.CostOf(record, "NVIDIA H100 80B", day);
  EXPECT_NEAR(measured.energy, rated.energy / 2, 1e-9);
  EXPECT_NEAR(measured.total(), rated.total() - rated.energy / 2, 1e-9);
}

TEST(PriceBookTest, TheHousePaysForRequestsThatFail) {
  UsageRecord record = Record();
  const Cost good = Book().CostOf(record, "NVIDIA H200", Day("2026-06-01"));
  record.reason = FinishReason::kError;
  const Cost failed = Book().CostOf(record, "NVIDIA H200", Day("2026-06-01"));
  EXPECT_EQ(failed.total(), 0);
  EXPECT_NEAR(failed.waste, good.total() + good.waste, 1e-12);
  record.reason = FinishReason::kCancelled;
  EXPECT_DOUBLE_EQ(Book().CostOf(record, "NVIDIA H200", Day("2026-06-01")).total(), good.total());
}

TEST(PriceBookTest, NoPriceIsMadeUp) {
  for (const PriceBook& book : {PriceBook(), Book()}) {
    const Cost cost = book.CostOf(Record(), "NVIDIA A100", Day("2026-06-01"));
    EXPECT_FALSE(cost.priced);
    EXPECT_EQ(cost.currency, "none");
    EXPECT_EQ(cost.total(), 0);
    EXPECT_EQ(cost.waste, 0);
  }
  // A price of 0 is a price.
  EXPECT_TRUE(Book().CostOf(Record(), "cpu AMD EPYC", Day("2026-06-01")).priced);
}

TEST(PriceBookTest, AWrongFileIsToldWithLineAndField) {
  const struct {
    const char* from;
    const char* to;
    const char* expected;
  } kWrong[] = {
      {"currency: EUR", "currency: euro", "line 2: currency must be three capital letters"},
      {"currency: EUR\n", "", "has no currency"},
      {"overhead: 0.25", "overhead: -1", "line 3: overhead is `-1`, must be a number from 0"},
      {"overhead: 0.25", "overhead: .nan", "line 3: overhead is `.nan`"},
      {"overhead: 0.25", "overheads: 0.25", "line 3: overheads is not known; there is currency"},
      {"idle: usage", "idle: mine", "line 4: idle must be `house` or `usage`"},
      {"idle: usage", "currency: USD", "line 4: currency is given twice"},
      {"    hour: 4\n", "    hour: four\n", "line 8: devices[0].hour is `four`"},
      {"    hour: 4\n", "", "line 6: devices[0] has no hour"},
      {"until: 2026-06-01", "until: 2026-6-31", "line 7: devices[0].until is `2026-6-31`"},
      {"from: 2026-06-01", "from: 2026-06-01\n    until: 2026-06-01", "must be after `from`"},
      {"    power: {rated_watts: 700}", "    power: {watts: 700}",
       "line 12: devices[1].power.watts"},
      {"      years: 3\n", "", "devices[2].owned has no years"},
      {"residual: 3720", "residual: 40000", "devices[2].owned.residual is 40000, more than"},
      {"    hour: 0\n", "    hour: 0\n    owned: {capital: 1, years: 1}\n",
       "devices[3].owned must"},
      {"devices:", "devices: [", "not valid YAML"},
  };
  for (const auto& wrong : kWrong) {
    const std::string yaml = absl::StrReplaceAll(kGood, {{wrong.from, wrong.to}});
    ASSERT_NE(yaml, kGood) << wrong.from;
    const absl::StatusOr<PriceBook> book = PriceBook::Parse(yaml);
    ASSERT_FALSE(book.ok()) << yaml;
    EXPECT_THAT(std::string(book.status().message()), HasSubstr(wrong.expected));
    EXPECT_THAT(std::string(book.status().message()), StartsWith("line ")) << wrong.from;
  }
}

TEST(PriceBookTest, FilesOfBadIntentAreRefused) {
  std::string deep = "currency: ";
  for (int i = 0; i < 100; ++i) deep += "[";
  // Each line is ten times the one before.
  std::string bomb = "a: &a0 [1]\n";
  for (int i = 1; i < 9; ++i) {
    absl::StrAppend(&bomb, "b", i, ": &a", i, " [");
    for (int j = 0; j < 10; ++j) absl::StrAppend(&bomb, "*a", i - 1, ",");
    bomb += "]\n";
  }
  const std::string loop = "currency: &a [*a]\n";
  const std::string large = "# " + std::string(kYamlFileBytesMax, 'x');
  for (const std::string& yaml : {deep, bomb, loop, large, std::string(), std::string("- 1"),
                                  std::string("\xff\xfe\x00", 3), std::string("? [a]\n: b\n")}) {
    EXPECT_FALSE(PriceBook::Parse(yaml).ok()) << yaml.substr(0, 100);
  }
}

TEST(PriceBookTest, TheExampleThatIsDeliveredIsRight) {
  const absl::StatusOr<PriceBook> book =
      PriceBook::Read(TESSERA_SOURCE_DIR "/deploy/prices/example.yaml");
  ASSERT_TRUE(book.ok()) << book.status();
  EXPECT_NE(book->Find("cpu Some Processor", absl::Now()), nullptr);
  const absl::StatusOr<ApiPrices> api =
      ApiPrices::Read(TESSERA_SOURCE_DIR "/deploy/prices/api-example.yaml");
  ASSERT_TRUE(api.ok()) << api.status();
  EXPECT_EQ(api->currency(), book->currency());
}

TEST(FitsPatternTest, StarsAndQuestionMarks) {
  EXPECT_TRUE(FitsPattern("", ""));
  EXPECT_TRUE(FitsPattern("*", ""));
  EXPECT_TRUE(FitsPattern("a*b*c", "a-b-b-c"));
  EXPECT_TRUE(FitsPattern("NVIDIA*", "NVIDIA H200"));
  EXPECT_TRUE(FitsPattern("H?00", "H200"));
  EXPECT_FALSE(FitsPattern("H?00", "H00"));
  EXPECT_FALSE(FitsPattern("a*b", "a-c"));
  EXPECT_FALSE(FitsPattern("", "a"));
  EXPECT_FALSE(FitsPattern("cpu", "cpu x"));
}

class PricingTest : public testing::Test {
 protected:
  void SetUp() override {
    file_ = testing::TempDir() + "prices-" +
            testing::UnitTest::GetInstance()->current_test_info()->name() + ".yaml";
    Write(kGood);
  }
  void TearDown() override { std::filesystem::remove(file_); }
  void Write(const std::string& text) {
    std::ofstream(file_ + ".new") << text;
    std::filesystem::rename(file_ + ".new", file_);  // another inode: another version for sure
  }

  std::string file_;
};

TEST_F(PricingTest, AFileIsReadAgainWhenItChangesAndABadOneIsNot) {
  const auto pricing = Pricing::Open(file_, "");
  ASSERT_TRUE(pricing.ok()) << pricing.status();
  Pricing& prices = **pricing;
  prices.SetDevice("m", "NVIDIA H200");
  UsageRecord record = Record();
  record.model = "m";
  record.arrival = Day("2026-07-01");
  EXPECT_DOUBLE_EQ(prices.CostOf(record).input, 4.5);
  Write(absl::StrReplaceAll(kGood, {{"overhead: 0.25", "overhead: nonsense"}}));
  prices.Reload(false);
  EXPECT_DOUBLE_EQ(prices.CostOf(record).input, 4.5);
  Write(absl::StrReplaceAll(kGood, {{"overhead: 0.25", "overhead: 1"}}));
  prices.Reload(false);
  EXPECT_DOUBLE_EQ(prices.CostOf(record).input, 7.2);
  std::filesystem::remove(file_);
  prices.Reload(false);
  EXPECT_DOUBLE_EQ(prices.CostOf(record).input, 7.2);
}

TEST_F(PricingTest, ARequestIsPricedAtItsArrival) {
  const auto pricing = Pricing::Open(file_, "");
  ASSERT_TRUE(pricing.ok()) << pricing.status();
  (*pricing)->SetDevice("m", "NVIDIA H200");
  UsageRecord record = Record();
  record.model = "m";
  record.arrival = Day("2026-06-01") - absl::Seconds(1);
  record.finished = Day("2026-06-02");
  EXPECT_DOUBLE_EQ((*pricing)->CostOf(record).input, 5.0);
  record.model = "another";  // of which no device is known
  EXPECT_FALSE((*pricing)->CostOf(record).priced);
}

TEST_F(PricingTest, ABadFileEndsTheStartAndIsNamed) {
  Write("currency: EUR\ndevices: 7\n");
  const auto pricing = Pricing::Open(file_, "");
  ASSERT_FALSE(pricing.ok());
  EXPECT_THAT(
      std::string(pricing.status().message()),
      HasSubstr(absl::StrCat("the price file ", file_, ", line 2: devices must be a list")));
  EXPECT_THAT(std::string(Pricing::Open("", file_ + ".none").status().message()),
              HasSubstr("cannot be opened"));
  const auto none = Pricing::Open("", "");
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE((*none)->has_files());
}

}  // namespace
}  // namespace tessera
