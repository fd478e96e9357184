// The admin API, with real bytes over a socket: every route, who is let in, and that its sums are
// those of the records it was told.

#include "coordinator/admin/admin_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "coordinator/admin/admin_routes.h"
#include "tests/coordinator/api/socket_client.h"

namespace tessera {
namespace {

using api::Fetch;
using api::HttpResponse;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kPrices[] = R"(currency: USD
idle: usage
devices:
  - name: "cpu*"
    hour: 36
)";
constexpr char kApiPrices[] = R"(currency: USD
models:
  - name: other
    input: 1000
    output: 2000
)";

class AdminServerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "admin-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir_ = name;
    std::ofstream(dir_ + "/prices.yaml") << kPrices;
    std::ofstream(dir_ + "/api.yaml") << kApiPrices;
    std::ofstream(dir_ + "/token") << kToken << "\n";
    auto pricing = Pricing::Open(dir_ + "/prices.yaml", dir_ + "/api.yaml");
    ASSERT_TRUE(pricing.ok()) << pricing.status();
    pricing_ = *std::move(pricing);
    pricing_->SetDevice("demo", "cpu X");
  }
  void TearDown() override {
    server_.reset();
    book_.reset();
    log_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Start(bool with_log, const std::string& token_file = "") {
    if (with_log) {
      UsageLogOptions options;
      options.dir = dir_ + "/usage";
      options.run = "r";
      options.sync_interval = absl::Milliseconds(1);
      auto log = UsageLog::Open(options, clock_);
      ASSERT_TRUE(log.ok()) << log.status();
      log_ = *std::move(log);
    }
    book_ = std::make_unique<UsageBook>(std::vector<std::string>{"demo", "second"}, 2, *pricing_,
                                        log_.get(), clock_);
    auto server = AdminServer::Open({.address = "127.0.0.1:0", .token_file = token_file}, *book_,
                                    clock_, metrics_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    const auto address = server_->Start();
    ASSERT_TRUE(address.ok()) << address.status();
    address_ = *address;
  }
  void Use(const std::string& tenant, double prefill, double decode,
           const std::string& model = "demo") {
    UsageRecord record;
    record.request_id = absl::StrCat("cmpl-", ++requests_);
    record.tenant = tenant;
    record.model = model;
    record.arrival = clock_.Now();
    record.finished = clock_.Now();
    record.prompt_tokens = 100;
    record.cached_tokens = 50;
    record.output_tokens = 10;
    record.work[WorkKind::kPrefill] = prefill;
    record.work[WorkKind::kDecode] = decode;
    book_->Take(std::move(record));
  }
  HttpResponse Get(const std::string& target, const std::string& headers = "") {
    return Fetch(address_, "GET", target, "", headers);
  }

  static constexpr char kToken[] = "a token of the operator";
  const RealClock clock_{};
  Metrics metrics_{{"demo", "second"}};
  std::string dir_;
  int requests_ = 0;
  std::unique_ptr<Pricing> pricing_;
  std::unique_ptr<UsageLog> log_;
  std::unique_ptr<UsageBook> book_;
  std::unique_ptr<AdminServer> server_;
  std::string address_;
};

TEST_F(AdminServerTest, UsageIsTheSumOfTheRecords) {
  Start(true);
  Use("acme", 1, 2);
  Use("acme", 3, 4);
  Use("beta", 5, 6);
  const HttpResponse reply = Get("/usage?by=tenant&since=24h");
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.headers.at("content-type"), "application/json");
  EXPECT_EQ(reply.headers.at("x-tessera-waiting-entries"), "0");
  const json rows = reply.json()["rows"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0]["tenant"], "acme");
  EXPECT_EQ(rows[0]["requests"], 2);
  EXPECT_DOUBLE_EQ(rows[0]["prefill_gpu_seconds"], 4);
  EXPECT_DOUBLE_EQ(rows[0]["cost"], 0.1);  // ten seconds at a cent
  EXPECT_DOUBLE_EQ(rows[1]["cost"], 0.11);
  const json requests = Get("/usage?by=request&limit=2").json();
  ASSERT_EQ(requests["requests"].size(), 2u);
  EXPECT_EQ(requests["requests"][1]["id"], "cmpl-2");
  const json rest = Get("/usage?by=request&from=" + requests["next"].get<std::string>()).json();
  ASSERT_EQ(rest["requests"].size(), 1u);
  EXPECT_EQ(rest["requests"][0]["id"], "cmpl-3");
  EXPECT_FALSE(rest.contains("next"));
  const json log = Get("/groups").json()["usage_log"];
  EXPECT_EQ(log["written_entries"], 3);
  EXPECT_EQ(log["merged_requests"], 0);
  EXPECT_EQ(log["error"], nullptr);
}

TEST_F(AdminServerTest, FormatsAreTypedAndHeadHasNoBody) {
  Start(true);
  Use("acme", 1, 2);
  const HttpResponse csv = Get("/usage?format=csv&by=day%2Ctenant");
  EXPECT_THAT(csv.headers.at("content-type"), StartsWith("text/csv"));
  EXPECT_THAT(csv.body, StartsWith("day,tenant,requests,"));
  const HttpResponse table = Get("/usage?format=table");
  EXPECT_THAT(table.headers.at("content-type"), StartsWith("text/plain"));
  EXPECT_THAT(table.body, HasSubstr("acme"));
  api::SocketClient client(address_);
  ASSERT_TRUE(client.SendRequest("HEAD", "/usage"));
  EXPECT_EQ(client.ReadResponse(/*head=*/true).status, 200);
}

TEST_F(AdminServerTest, WithoutALogThereAreSumsSinceTheStart) {
  Start(false);
  Use("acme", 1, 2);
  const json answer = Get("/usage").json();
  EXPECT_EQ(answer["rows"][0]["requests"], 1);
  EXPECT_TRUE(answer.contains("complete_since"));
  for (const char* target : {"/usage?by=request", "/usage?since=1h", "/usage?until=1s"}) {
    const HttpResponse refused = Get(target);
    EXPECT_EQ(refused.status, 400) << target;
    EXPECT_THAT(refused.json()["error"]["message"].get<std::string>(), HasSubstr("--usage-dir"));
  }
}

TEST_F(AdminServerTest, WhatMakesNoSenseIsRefusedByName) {
  Start(true);
  for (const char* target : {"/usage?by=colour", "/usage?by=tenant&by=day", "/usage?what=1",
                             "/prices?x=1", "/usage?limit=", "/usage?from=..%2F..%2Fetc:0"}) {
    const HttpResponse refused = Get(target);
    EXPECT_EQ(refused.status, 400) << target;
    EXPECT_THAT(refused.json()["error"]["message"].get<std::string>(), StartsWith("`")) << target;
  }
  EXPECT_EQ(Get("/").status, 404);
  EXPECT_EQ(Get("/usage/../prices").status, 404);
  EXPECT_EQ(Fetch(address_, "POST", "/usage", "{}").status, 405);
}

TEST_F(AdminServerTest, ATokenIsAskedForOnEveryRoute) {
  Start(false, dir_ + "/token");
  for (const char* target : {"/usage", "/prices", "/groups", "/comparison", "/nothing"}) {
    for (const std::string& headers :
         {std::string(), std::string("Authorization: Bearer wrong\r\n"),
          std::string("Authorization: ") + kToken + "\r\n",
          std::string("Authorization: Bearer ") + kToken + "x\r\n"}) {
      EXPECT_EQ(Get(target, headers).status, 401) << target << " " << headers;
    }
  }
  EXPECT_EQ(Get("/usage", std::string("Authorization: Bearer ") + kToken + "\r\n").status, 200);
}

TEST_F(AdminServerTest, OtherMachinesNeedAToken) {
  Start(false);
  const auto open = [this](const std::string& address, const std::string& token) {
    return AdminServer::Open({.address = address, .token_file = token}, *book_, clock_, metrics_)
        .status();
  };
  EXPECT_EQ(open("0.0.0.0:0", "").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(open(":0", "").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(open("0.0.0.0:0", dir_ + "/token").ok());
  EXPECT_TRUE(open("[::1]:0", "").ok());
  EXPECT_THAT(std::string(open("127.0.0.1:0", dir_ + "/none").message()), HasSubstr("/none"));
  std::ofstream(dir_ + "/short") << "short\n";
  EXPECT_THAT(std::string(open("127.0.0.1:0", dir_ + "/short").message()),
              HasSubstr("16 to 4096 bytes"));
}

TEST_F(AdminServerTest, PricesAreThoseThatHold) {
  Start(false);
  const json prices = Get("/prices").json();
  EXPECT_EQ(prices["currency"], "USD");
  EXPECT_EQ(prices["devices"][0]["hour"], 36.0);
  EXPECT_EQ(prices["devices"][0]["until"], nullptr);
  EXPECT_EQ(prices["models"][0]["priced"], true);
  EXPECT_EQ(prices["models"][1]["priced"], false);  // of which no device is known
  EXPECT_EQ(prices["apis"][0]["name"], "other");
}

TEST_F(AdminServerTest, IdleTimeIsShownApartAndSharedWhereThatIsWanted) {
  Start(false);
  Use("acme", 1, 2);
  Use("beta", 5, 4);
  book_->AddWall(0, 100);
  book_->Charge({.model = 0, .tenant = "acme", .kind = GpuKind::kDecode, .seconds = 12});
  book_->Charge({.model = 0, .tenant = "", .kind = GpuKind::kIdleNone, .seconds = 60});
  book_->Charge({.model = 0, .tenant = "", .kind = GpuKind::kIdleBubble, .seconds = 20});
  book_->Charge({.model = 0, .tenant = "", .kind = GpuKind::kLoad, .seconds = 8});
  const json group = Get("/groups").json()["models"][0];
  EXPECT_EQ(group["model"], "demo");
  EXPECT_EQ(group["device"], "cpu X");
  EXPECT_EQ(group["ranks"], 2);
  EXPECT_EQ(group["wall_gpu_seconds"], 100.0);
  EXPECT_EQ(group["gpu_seconds"]["idle_none"], 60.0);
  EXPECT_DOUBLE_EQ(group["idle_cost"], 0.8);
  EXPECT_DOUBLE_EQ(group["other_cost"], 0.08);
  double sum = 0;
  for (const json& seconds : group["gpu_seconds"]) sum += seconds.get<double>();
  EXPECT_DOUBLE_EQ(sum, 100);

  const json comparison = Get("/comparison").json();
  const json& model = comparison["models"][0];
  EXPECT_DOUBLE_EQ(model["cost"], 0.12);
  EXPECT_DOUBLE_EQ(model["idle_cost"], 0.8);
  EXPECT_DOUBLE_EQ(model["per_million"]["input"], 600);    // 6 s for 100 computed tokens
  EXPECT_DOUBLE_EQ(model["per_million"]["output"], 3000);  // 6 s for 20
  EXPECT_NEAR(model["per_million"]["blended"], 0.12 / 220 * 1e6, 1e-9);
  EXPECT_NEAR(model["per_million"]["blended_with_idle"], 1.0 / 220 * 1e6, 1e-9);
  EXPECT_DOUBLE_EQ(model["utilization"], 0.12);
  EXPECT_DOUBLE_EQ(model["devices_hour"], 72);
  EXPECT_DOUBLE_EQ(model["apis"][0]["cost"], 0.2 + 0.04);
  EXPECT_NEAR(model["apis"][0]["break_even_tokens_month"], 72 * 730.5 / (0.24 / 220), 1e-3);
  ASSERT_EQ(comparison["tenants"].size(), 2u);
  EXPECT_EQ(comparison["tenants"][0]["tenant"], "acme");
  EXPECT_DOUBLE_EQ(comparison["tenants"][0]["idle_share"], 0.2);
  EXPECT_DOUBLE_EQ(comparison["tenants"][1]["idle_share"], 0.6);
}

TEST_F(AdminServerTest, AModelWithoutAPriceHasNoMoney) {
  Start(false);
  Use("acme", 1, 2, "second");
  const json model = Get("/comparison").json()["models"][0];
  EXPECT_EQ(model["model"], "second");
  EXPECT_EQ(model["currency"], "none");
  EXPECT_EQ(model["cost"], 0.0);
  EXPECT_EQ(model["per_million"]["blended_with_idle"], nullptr);
  EXPECT_EQ(model["apis"].size(), 0u);
}

TEST(ParseUrlQueryTest, NamesAndValues) {
  const auto params = ParseUrlQuery("a=1&b=%41+c&&d");
  ASSERT_TRUE(params.ok());
  EXPECT_EQ(params->at("a"), "1");
  EXPECT_EQ(params->at("b"), "A c");
  EXPECT_EQ(params->at("d"), "");
  EXPECT_FALSE(ParseUrlQuery("a=1&a=2").ok());
  std::string many;
  for (int i = 0; i < 100; ++i) absl::StrAppend(&many, "p", i, "=1&");
  EXPECT_FALSE(ParseUrlQuery(many).ok());
}

}  // namespace
}  // namespace tessera
