// Questions about usage: sums by every field, ranges, single requests in pages, damage, and that
// all formats say the same.

#include "coordinator/ledger/usage_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/coordinator/ledger/usage_fixture.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class UsageReportTest : public UsageDirTest {
 protected:
  // One file, made on the day of kNoon + `days`.
  void WriteFile(int days, const std::vector<UsageEntry>& entries, const std::string& tail = "") {
    const UsageFileName name{absl::ToCivilDay(kNoon, absl::UTCTimeZone()) + days, 1};
    std::ofstream out(dir_ + "/" + name.ToString(), std::ios::binary);
    for (const UsageEntry& entry : entries) out << UsageLine(entry) << "\n";
    out << tail;
  }
  UsageQuery Query(const std::map<std::string, std::string>& params) {
    absl::StatusOr<UsageQuery> query = ParseUsageQuery(params, kNoon + absl::Hours(1));
    EXPECT_TRUE(query.ok()) << query.status();
    return query.ok() ? *query : UsageQuery();
  }
  UsageAnswer Ask(const std::map<std::string, std::string>& params) {
    absl::StatusOr<UsageAnswer> answer =
        ReportUsage(dir_, Query(params), 0, absl::InfiniteFuture());
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : UsageAnswer();
  }
  json AskJson(const std::map<std::string, std::string>& params) {
    return json::parse(Ask(params).text);
  }
};

TEST_F(UsageReportTest, SumsByEveryField) {
  UsageEntry other_day = EntryOf(5, "beta", "large");
  other_day.finished += absl::Hours(24);
  WriteFile(0, {EntryOf(1), EntryOf(2, "beta"), EntryOf(3)});
  WriteFile(1, {other_day});
  const json by_tenant = AskJson({{"by", "tenant"}});
  ASSERT_EQ(by_tenant["rows"].size(), 2u);
  const json& acme = by_tenant["rows"][0];
  EXPECT_EQ(acme["tenant"], "acme");
  EXPECT_EQ(acme["requests"], 2);
  EXPECT_EQ(acme["prompt_tokens"], 11 + 13);
  EXPECT_EQ(acme["cached_tokens"], 8);
  EXPECT_EQ(acme["output_tokens"], 4);
  EXPECT_DOUBLE_EQ(acme["prefill_gpu_seconds"], 2.0);
  EXPECT_DOUBLE_EQ(acme["decode_gpu_seconds"], 0.5);
  EXPECT_DOUBLE_EQ(acme["recompute_gpu_seconds"], 0.25);
  EXPECT_DOUBLE_EQ(acme["overrun_gpu_seconds"], 0.125);
  EXPECT_DOUBLE_EQ(acme["energy_joules"], 400);
  EXPECT_NEAR(acme["cost"].get<double>(), 0.004 + 0.004, 1e-12);
  EXPECT_NEAR(acme["waste_cost"].get<double>(), 0.0004, 1e-12);
  EXPECT_NEAR(acme["input_per_million"].get<double>(), 0.004 / 16 * 1e6, 1e-6);
  EXPECT_NEAR(acme["output_per_million"].get<double>(), 0.004 / 4 * 1e6, 1e-6);
  EXPECT_NEAR(acme["blended_per_million"].get<double>(), 0.008 / 28 * 1e6, 1e-6);
  EXPECT_EQ(acme["currency"], "USD");
  EXPECT_EQ(AskJson({{"by", "model"}})["rows"].size(), 2u);
  EXPECT_EQ(AskJson({{"by", "device"}})["rows"].size(), 1u);
  const json days = AskJson({{"by", "day,tenant"}});
  ASSERT_EQ(days["rows"].size(), 3u);
  EXPECT_EQ(days["rows"][0]["day"], absl::FormatTime("%Y-%m-%d", kNoon, absl::UTCTimeZone()));
  EXPECT_EQ(days["rows"][2]["tenant"], "beta");
}

TEST_F(UsageReportTest, MoneyOfTwoCurrenciesIsNeverAdded) {
  UsageEntry euro = EntryOf(2);
  euro.cost.currency = "EUR";
  UsageEntry unpriced = EntryOf(3);
  unpriced.cost = Cost();
  WriteFile(0, {EntryOf(1), euro, unpriced});
  const json rows = AskJson({{"by", "tenant"}})["rows"];
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0]["currency"], "EUR");
  EXPECT_EQ(rows[1]["currency"], "USD");
  EXPECT_EQ(rows[2]["currency"], "none");
  EXPECT_EQ(rows[2]["unpriced_requests"], 1);
  EXPECT_EQ(rows[2]["cost"], 0.0);
}

TEST_F(UsageReportTest, ARangeIsOfTheEnd) {
  WriteFile(0, {EntryOf(0), EntryOf(10), EntryOf(20)});
  const auto count = [this](const std::string& since, const std::string& until) {
    std::map<std::string, std::string> params = {{"by", "request"}};
    if (!since.empty()) params["since"] = since;
    if (!until.empty()) params["until"] = until;
    return AskJson(params)["requests"].size();
  };
  EXPECT_EQ(count("", ""), 3u);
  EXPECT_EQ(count("2h", ""), 3u);
  EXPECT_EQ(count("30m", ""), 0u);
  const auto at = [](int second) {
    return absl::FormatTime(absl::RFC3339_full, kNoon + absl::Seconds(second), absl::UTCTimeZone());
  };
  EXPECT_EQ(count(at(11), ""), 2u);      // `since` belongs to it
  EXPECT_EQ(count(at(11), at(21)), 1u);  // `until` does not
  EXPECT_EQ(count("", at(1)), 0u);
  const std::string day = absl::FormatTime("%Y-%m-%d", kNoon, absl::UTCTimeZone());
  EXPECT_EQ(count(day, ""), 3u);
  EXPECT_EQ(count("", day), 0u);
}

TEST_F(UsageReportTest, WhatFinishedBeforeMidnightMayBeInTheNextDaysFile) {
  UsageEntry late = EntryOf(1);
  WriteFile(1, {late});
  const std::string until =
      absl::FormatTime(absl::RFC3339_full, late.finished + absl::Seconds(1), absl::UTCTimeZone());
  EXPECT_EQ(AskJson({{"until", until}})["rows"].size(), 1u);
}

TEST_F(UsageReportTest, RequestsComeInPages) {
  WriteFile(0, {EntryOf(0), EntryOf(1), EntryOf(2)});
  WriteFile(1, {EntryOf(3), EntryOf(4)});
  std::map<std::string, std::string> params = {{"by", "request"}, {"limit", "2"}};
  std::vector<std::string> ids;
  for (int page = 0; page < 10; ++page) {
    const json answer = AskJson(params);
    for (const json& request : answer["requests"]) ids.push_back(request["id"]);
    if (!answer.contains("next")) break;
    params["from"] = answer["next"];
  }
  EXPECT_THAT(ids, ElementsAre("cmpl-0", "cmpl-1", "cmpl-2", "cmpl-3", "cmpl-4"));
}

TEST_F(UsageReportTest, DamageIsPassedOverAndTold) {
  const std::string good = UsageLine(EntryOf(1));
  const auto without = [&good](const std::string& field) {
    json line = json::parse(good);
    line.erase(field);
    return line.dump();
  };
  const auto with = [&good](const std::string& field, const json& value) {
    json line = json::parse(good);
    line[field] = value;
    return line.dump();
  };
  std::string tail;
  uint64_t damaged = 0;
  for (const std::string& line :
       {std::string("nonsense"), std::string("[]"), std::string("null"), std::string(40'000, 'x'),
        good.substr(0, 100), without("tenant"), without("gpu_seconds"), with("v", 99),
        with("prompt_tokens", -1), with("prompt_tokens", "7"), with("cached_tokens", 1000),
        with("reason", "boredom"), with("finished", "yesterday"), with("gpu_seconds", 7),
        with("parts", json::object())}) {
    tail += line + "\n";
    ++damaged;
  }
  WriteFile(0, {EntryOf(1)}, tail + good + "\n" + good.substr(0, 50));
  const UsageAnswer answer = Ask({{"by", "tenant"}});
  EXPECT_EQ(answer.notes.damaged_lines, damaged);
  EXPECT_THAT(answer.notes.first_damage, StartsWith("usage-"));
  EXPECT_THAT(answer.notes.first_damage, HasSubstr("is no JSON object"));
  const json parsed = json::parse(answer.text);
  EXPECT_EQ(parsed["damaged_lines"], damaged);
  EXPECT_EQ(parsed["rows"][0]["requests"], 2);  // the line that is still being written is not shown
}

TEST_F(UsageReportTest, FieldsOfNextYearAreNoDamage) {
  json line = json::parse(UsageLine(EntryOf(1)));
  line["colour"] = "blue";
  WriteFile(0, {}, line.dump() + "\n");
  const UsageAnswer answer = Ask({});
  EXPECT_EQ(answer.notes.damaged_lines, 0u);
  EXPECT_EQ(json::parse(answer.text)["rows"].size(), 1u);
}

TEST_F(UsageReportTest, AllFormatsSayTheSame) {
  WriteFile(0, {EntryOf(1, "acme, inc"), EntryOf(2, "=SUM(A1)"), EntryOf(3, "b\"c")});
  const json rows = AskJson({{"by", "tenant"}})["rows"];
  const std::string csv = Ask({{"by", "tenant"}, {"format", "csv"}}).text;
  EXPECT_THAT(csv, StartsWith("tenant,requests,unpriced_requests,prompt_tokens,"));
  EXPECT_THAT(csv, HasSubstr("\r\n'=SUM(A1),1,0,12,4,2,1.0,0.25,"));
  EXPECT_THAT(csv, HasSubstr("\r\n\"acme, inc\",1,0,11,4,2,0.5,0.25,"));
  EXPECT_THAT(csv, HasSubstr("\r\n\"b\"\"c\",1,0,13,4,2,1.5,0.25,"));
  const std::string table = Ask({{"by", "tenant"}, {"format", "table"}}).text;
  EXPECT_THAT(table, StartsWith("tenant     requests  prompt  cached  output"));
  EXPECT_THAT(table, HasSubstr("\nall               3      36      12       6"));
  for (const json& row : rows) EXPECT_THAT(table, HasSubstr(row["tenant"].get<std::string>()));
}

TEST_F(UsageReportTest, NoUsageIsAnAnswer) {
  EXPECT_EQ(AskJson({})["rows"].size(), 0u);
  EXPECT_EQ(Ask({{"format", "table"}}).text, "no usage in this time\n");
  EXPECT_THAT(Ask({{"format", "csv"}, {"by", "request"}}).text, StartsWith("entry,id,tenant,"));
  const auto nowhere = ReportUsage(dir_ + "/none", Query({}), 0, absl::InfiniteFuture());
  EXPECT_EQ(nowhere.status().code(), absl::StatusCode::kNotFound);
}

TEST_F(UsageReportTest, AQueryThatMakesNoSenseIsRefusedByName) {
  const std::map<std::string, std::string> kWrong[] = {
      {{"by", "colour"}},     {{"by", "tenant,tenant"}}, {{"by", ""}},
      {{"since", "soon"}},    {{"since", "-1h"}},        {{"since", "1e300d"}},
      {{"until", "2026-13"}}, {{"format", "xml"}},       {{"limit", "0"}},
      {{"limit", "99999"}},   {{"from", "x:1"}},         {{"from", "usage-20260231-0001.jsonl:0"}},
      {{"what", "1"}}};
  for (const auto& params : kWrong) {
    const auto query = ParseUsageQuery(params, kNoon);
    ASSERT_FALSE(query.ok()) << params.begin()->first << "=" << params.begin()->second;
    EXPECT_THAT(std::string(query.status().message()),
                StartsWith("`" + params.begin()->first + "` "));
  }
  EXPECT_FALSE(ParseUsageQuery({{"since", "1h"}, {"until", "2h"}}, kNoon).ok());
}

TEST(UsageFileNameTest, OnlyWhatIsWritten) {
  UsageFileName name;
  EXPECT_TRUE(ParseUsageFileName("usage-20261122-0001.jsonl", &name));
  EXPECT_EQ(name.ToString(), "usage-20261122-0001.jsonl");
  EXPECT_TRUE(ParseUsageFileName("usage-20261122-12345.jsonl", &name));
  for (const char* wrong :
       {"", "usage-.jsonl", "usage-20261122-1.jsonl", "usage-20261322-0001.jsonl",
        "usage-20261122-0000.jsonl", "usage-20261122-+001.jsonl", "usage-20261122-0001.jsonl.gz",
        "usage-20261122-00001.jsonl"}) {
    EXPECT_FALSE(ParseUsageFileName(wrong, &name)) << wrong;
  }
}

TEST(UsageTotalsTest, RowsAreBounded) {
  UsageTotals totals({UsageField::kTenant});
  for (size_t i = 0; i < kUsageRowsMax + 10; ++i) totals.Add(EntryOf(1, absl::StrCat("t", i)));
  EXPECT_EQ(totals.rows().size(), kUsageRowsMax + 1);
  EXPECT_EQ(totals.rows().at({"other", "USD"}).requests, 10u);
}

}  // namespace
}  // namespace tessera
