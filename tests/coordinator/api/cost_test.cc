// What clients are told of the cost of their requests: headers, usage.cost, the last event of a
// stream, gRPC trailers. The ranks report a step time, so that there is something to pay for.

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "coordinator/ledger/pricing.h"
#include "tessera/v1/tessera.grpc.pb.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;

constexpr char kPrices[] = R"(currency: CHF
devices:
  - {name: "cpu*", hour: 7200, power: {rated_watts: 100, kilowatt_hour: 3600}}
)";

double NumberOf(const std::string& text) {
  double value = -1;
  EXPECT_TRUE(absl::SimpleAtod(text, &value)) << text;
  return value;
}

class CostTest : public ApiFixture {
 protected:
  void Configure(ApiOptions* options, SchedulerOptions*) override {
    const std::string file = testing::TempDir() + "cost-test-prices.yaml";
    std::ofstream(file) << kPrices;
    auto pricing = Pricing::Open(priced_ ? file : "", "");
    ASSERT_TRUE(pricing.ok()) << pricing.status();
    pricing_ = *std::move(pricing);
    pricing_->SetDevice(model_.name, "cpu of a test");
    options->pricing = pricing_.get();
  }
  void SetUp() override {
    ApiFixture::SetUp();
    executor_->TellStepTime(absl::Milliseconds(500));
  }

  bool priced_ = true;
  std::unique_ptr<Pricing> pricing_;
};

class UnpricedCostTest : public CostTest {
 protected:
  UnpricedCostTest() { priced_ = false; }
};

// Two per second of a device, and 100 W at 3600 per kWh: a tenth more.
void ExpectConsistent(const json& cost) {
  const double seconds =
      cost["gpu_seconds"]["prefill"].get<double>() + cost["gpu_seconds"]["decode"].get<double>();
  EXPECT_NEAR(seconds, 1.5, 1e-6);  // a prompt and two tokens, half a second each
  EXPECT_EQ(cost["currency"], "CHF");
  EXPECT_NEAR(cost["total"].get<double>(), seconds * 2.1, 1e-9);
  EXPECT_NEAR(cost["energy"].get<double>(), seconds * 0.1, 1e-9);
  EXPECT_NEAR(cost["input"].get<double>(), cost["gpu_seconds"]["prefill"].get<double>() * 2.1,
              1e-9);
  EXPECT_NEAR(cost["input"].get<double>() + cost["output"].get<double>(),
              cost["total"].get<double>(), 1e-9);
  // Of all its device time, also what nobody pays for.
  EXPECT_GE(cost["energy_joules"].get<double>(), seconds * 100 - 1e-6);
}

constexpr char kAsk[] = R"({"prompt": "Hello", "max_tokens": 3, "ignore_eos": true)";

TEST_F(CostTest, AWholeAnswerHasItInItsHeadersAndInItsUsageWhereAskedFor) {
  const HttpResponse plain = Post("/v1/completions", std::string(kAsk) + "}");
  ASSERT_EQ(plain.status, 200) << plain.body;
  EXPECT_FALSE(plain.json()["usage"].contains("cost"));
  const double told = NumberOf(plain.headers.at("x-tessera-cost"));
  EXPECT_EQ(plain.headers.at("x-tessera-cost-currency"), "CHF");
  EXPECT_NEAR(told, NumberOf(plain.headers.at("x-tessera-gpu-seconds")) * 2.1, 1e-6);
  EXPECT_NEAR(told, 1.5 * 2.1, 1e-6);

  const HttpResponse asked =
      Post("/v1/completions", std::string(kAsk) + R"(,"include_cost":true})");
  ASSERT_EQ(asked.status, 200) << asked.body;
  const json cost = asked.json()["usage"]["cost"];
  ExpectConsistent(cost);
  EXPECT_NEAR(NumberOf(asked.headers.at("x-tessera-cost")), cost["total"].get<double>(), 1e-11);
}

TEST_F(CostTest, AStreamEndsWithItWhereAskedFor) {
  for (const char* usage : {"", R"(,"stream_options":{"include_usage":true})"}) {
    const HttpResponse reply =
        Post("/v1/completions",
             std::string(kAsk) + R"(,"stream":true,"include_cost":true)" + usage + "}");
    ASSERT_EQ(reply.status, 200) << reply.body;
    const std::vector<std::string> events = reply.events();
    ASSERT_GT(events.size(), 2u);
    EXPECT_EQ(events.back(), "[DONE]");
    const json last = json::parse(events[events.size() - 2]);
    EXPECT_EQ(last["choices"].size(), 0u);
    EXPECT_EQ(last["usage"]["completion_tokens"], 3);
    ExpectConsistent(last["usage"]["cost"]);
  }
  const HttpResponse silent =
      Post("/v1/completions",
           std::string(kAsk) + R"(,"stream":true,"stream_options":{"include_usage":true}})");
  EXPECT_EQ(silent.body.find("cost"), std::string::npos);
}

TEST_F(CostTest, IncludeCostIsABool) {
  const HttpResponse reply = Post("/v1/completions", std::string(kAsk) + R"(,"include_cost":1})");
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.json()["error"]["param"], "include_cost");
}

TEST_F(CostTest, GrpcHasItInTrailersAndInItsUsageWhereAskedFor) {
  const auto stub = v1::Tessera::NewStub(
      grpc::CreateChannel(addresses_.grpc, grpc::InsecureChannelCredentials()));
  for (const bool ask : {false, true}) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    if (ask) context.AddMetadata("x-tessera-include-cost", "true");
    v1::GenerateRequest request;
    request.set_text("Hello");
    request.mutable_sampling()->set_max_tokens(3);
    request.mutable_sampling()->set_ignore_eos(true);
    const auto stream = stub->Generate(&context, request);
    v1::GenerateResponse response;
    v1::Usage usage;
    while (stream->Read(&response)) {
      if (response.has_usage()) usage = response.usage();
    }
    ASSERT_TRUE(stream->Finish().ok());
    const auto& trailers = context.GetServerTrailingMetadata();
    const auto found = trailers.find("x-tessera-cost");
    ASSERT_NE(found, trailers.end());
    const double told = NumberOf(std::string(found->second.data(), found->second.size()));
    EXPECT_NEAR(told, 1.5 * 2.1, 1e-6);
    EXPECT_EQ(usage.has_cost(), ask);
    if (!ask) continue;
    EXPECT_NEAR(usage.cost().total(), told, 1e-11);
    EXPECT_EQ(usage.cost().currency(), "CHF");
    EXPECT_NEAR(usage.cost().total(),
                (usage.cost().prefill_gpu_seconds() + usage.cost().decode_gpu_seconds()) * 2.1,
                1e-9);
  }
}

TEST_F(UnpricedCostTest, WithoutAPriceItSaysSo) {
  const HttpResponse reply =
      Post("/v1/completions", std::string(kAsk) + R"(,"include_cost":true})");
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(NumberOf(reply.headers.at("x-tessera-cost")), 0);
  EXPECT_EQ(reply.headers.at("x-tessera-cost-currency"), "none");
  EXPECT_NEAR(NumberOf(reply.headers.at("x-tessera-gpu-seconds")), 1.5, 1e-6);
  EXPECT_EQ(reply.json()["usage"]["cost"]["currency"], "none");
  EXPECT_EQ(reply.json()["usage"]["cost"]["total"], 0.0);
  EXPECT_GT(reply.json()["usage"]["cost"]["gpu_seconds"]["prefill"], 0.0);
}

}  // namespace
}  // namespace tessera::api
