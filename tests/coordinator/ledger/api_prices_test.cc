// The comparison with API prices, by hand.

#include "coordinator/ledger/api_prices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tessera {
namespace {

using ::testing::HasSubstr;

constexpr char kTable[] = R"(currency: USD
operations_month: 1000
models:
  - name: big
    input: 2
    cached: 0.5
    output: 8
  - name: small
    input: 0.1
    output: 0.4
    compare_with: ["demo*"]
)";

// A million prompt tokens, half of them cached, and a million of output, in 1000 GPU-seconds.
UsageSums Ours() {
  UsageSums ours;
  ours.requests = 10;
  ours.prompt_tokens = 1'500'000;  // a third of them died in the queue
  ours.served_prompt_tokens = 1'000'000;
  ours.cached_tokens = 500'000;
  ours.output_tokens = 1'000'000;
  ours.work[WorkKind::kPrefill] = 200;
  ours.work[WorkKind::kDecode] = 700;
  ours.work[WorkKind::kRecompute] = 100;
  ours.cost = {.priced = true,
               .currency = "USD",
               .input = 0.25,
               .output = 0.75,
               .energy = 0.2,
               .saved = 0.25,
               .waste = 0.1};
  return ours;
}

TEST(ApiPricesTest, OurRatesArePerMillionOfTheTokensTheyAreFor) {
  const TokenRates rates = RatesOf(Ours());
  EXPECT_DOUBLE_EQ(rates.input, 0.5);  // half a million were computed
  EXPECT_DOUBLE_EQ(rates.cached, 0);
  EXPECT_DOUBLE_EQ(rates.output, 0.75);
  EXPECT_DOUBLE_EQ(rates.blended, 0.5);
  const TokenRates none = RatesOf(UsageSums());
  EXPECT_EQ(none.input, 0);
  EXPECT_EQ(none.blended, 0);
}

TEST(ApiPricesTest, APromptThatNeverRanIsInNoRate) {
  UsageEntry entry;
  entry.prompt_tokens = 100;
  UsageSums sums;
  sums.Add(entry);
  EXPECT_EQ(sums.prompt_tokens, 100u);
  EXPECT_EQ(sums.computed_prompt_tokens(), 0u);
  EXPECT_EQ(sums.tokens(), 0u);
  entry.work[WorkKind::kPrefill] = 1;
  sums.Add(entry);
  EXPECT_EQ(sums.computed_prompt_tokens(), 100u);
}

TEST(ApiPricesTest, BreakEvenIsWhereBothCostTheSame) {
  const absl::StatusOr<ApiPrices> prices = ApiPrices::Parse(kTable);
  ASSERT_TRUE(prices.ok()) << prices.status();
  const Capacity capacity = {
      .devices = 2, .hour = 7, .gpu_seconds = 4000, .idle_seconds = 3000, .idle_cost = 3};
  const ApiComparison result =
      CompareWithApi(Ours(), capacity, prices->models()[0], prices->operations_month());
  EXPECT_DOUBLE_EQ(result.api_cost, 1 + 0.25 + 8);
  EXPECT_DOUBLE_EQ(result.api.blended, 9.25 / 2);
  EXPECT_DOUBLE_EQ(result.our_cost, 1);
  EXPECT_DOUBLE_EQ(result.waste_cost, 0.1);
  EXPECT_DOUBLE_EQ(result.idle_cost, 3);
  // At that many tokens the API costs as much as the hours, the operation and the energy.
  ASSERT_TRUE(result.break_even_tokens_month.has_value());
  const double tokens = *result.break_even_tokens_month;
  EXPECT_NEAR(tokens * 9.25 / 2e6, 7 * 730.5 + 1000 + tokens * 0.2 / 2e6, 1e-6);
  // Two devices compute 2000 tokens a second each while they are busy.
  ASSERT_TRUE(result.break_even_utilization.has_value());
  EXPECT_NEAR(*result.break_even_utilization, tokens / (2 * 2000 * 730.5 * 3600), 1e-12);
}

TEST(ApiPricesTest, CheaperThanOurEnergyIsNeverBrokenEven) {
  ApiModelPrice cheap;
  cheap.output = 0.01;
  const ApiComparison result = CompareWithApi(Ours(), {.devices = 1, .hour = 1}, cheap, 0);
  EXPECT_FALSE(result.break_even_tokens_month.has_value());
  EXPECT_FALSE(result.break_even_utilization.has_value());
}

TEST(ApiPricesTest, ARowMayBeForSomeOfOurModels) {
  const ApiPrices prices = *ApiPrices::Parse(kTable);
  EXPECT_EQ(prices.For("demo-model").size(), 2u);
  EXPECT_EQ(prices.For("llama").size(), 1u);
  EXPECT_EQ(prices.models()[1].cached, 0.1);  // as `input` where nothing is said
}

TEST(ApiPricesTest, AWrongFileIsToldWithLineAndField) {
  const auto message = [](const std::string& yaml) {
    return std::string(ApiPrices::Parse(yaml).status().message());
  };
  EXPECT_THAT(message("models: []\n"), HasSubstr("has no currency"));
  EXPECT_THAT(message("currency: USD\n"), HasSubstr("has no models"));
  EXPECT_THAT(message("currency: USD\nmodels:\n  - name: a\n    input: 1\n"),
              HasSubstr("line 3: models[0] has no output"));
  EXPECT_THAT(message("currency: USD\nmodels:\n  - name: a\n    input: x\n    output: 1\n"),
              HasSubstr("line 4: models[0].input is `x`"));
  EXPECT_THAT(message("currency: USD\nmodels:\n  - {name: a, input: 1, output: 1, price: 3}\n"),
              HasSubstr("line 3: models[0].price is not known"));
}

}  // namespace
}  // namespace tessera
