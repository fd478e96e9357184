// Who may call: keys, models, priorities, limits and shared system prompts, at both doors.

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "coordinator/api/prompt.h"
#include "coordinator/tenants/tenant_limits.h"
#include "tessera/v1/tessera.grpc.pb.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr char kChat[] = "/v1/chat/completions";

class CallersTest : public ApiFixture {
 protected:
  void Configure(ApiOptions* options, SchedulerOptions*) override {
    limits_ = std::make_unique<TenantLimits>(*metrics_);
    Tenant narrow, thrifty, other;
    narrow.name = "narrow";
    narrow.limits.requests_in_flight = 1;
    thrifty.name = "thrifty";
    thrifty.limits.tokens_per_minute = 100;
    other.name = "other";
    std::vector<Tenant> tenants = {narrow, thrifty, other};
    for (const char* name : {"blue", "red"}) {
      tenants.push_back(other);
      tenants.back().name = name;
    }
    limits_->Configure(tenants);
    options->limits = limits_.get();
    options->authenticate = [](std::string_view key) -> absl::StatusOr<Caller> {
      Caller caller;
      caller.tenant = std::string(key.substr(0, key.find('-')));
      if (key != caller.tenant + "-key") return absl::UnauthenticatedError("no such key");
      if (caller.tenant == "stranger") caller.models = {"another-model"};
      caller.priority_max = 5;
      caller.cache.key[0] = static_cast<uint8_t>(key.front());
      caller.cache.shared_key[0] = 1;
      caller.share_system_prompt = caller.tenant == "blue" || caller.tenant == "red";
      return caller;
    };
  }
  void SetUp() override {
    ApiFixture::SetUp();
    AnswerWith("ok");
  }
  void TearDown() override {
    ApiFixture::TearDown();
    limits_.reset();
  }
  static std::string Header(const std::string& tenant) {
    return absl::StrCat("Authorization: Bearer ", tenant, "-key\r\n");
  }
  HttpResponse PostAs(const std::string& tenant, const std::string& path, const json& body) {
    return Fetch(addresses_.http, "POST", path, body.dump(), Header(tenant));
  }
  std::unique_ptr<v1::Tessera::Stub> Stub() {
    return v1::Tessera::NewStub(
        grpc::CreateChannel(addresses_.grpc, grpc::InsecureChannelCredentials()));
  }
  static void SetUpContext(grpc::ClientContext* context, const std::string& tenant) {
    context->set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
    if (!tenant.empty())
      context->AddMetadata("authorization", absl::StrCat("Bearer ", tenant, "-key"));
  }

  std::unique_ptr<TenantLimits> limits_;
};

TEST_F(CallersTest, WithoutAKeyOnlyTheOpenRoutesAnswer) {
  for (const char* open : {"/livez", "/readyz", "/version", "/metrics"}) {
    EXPECT_EQ(Get(open).status, 200) << open;
  }
  std::string said;
  for (const std::string& header : {std::string(), std::string("Authorization: Bearer wrong\r\n"),
                                    std::string("Authorization: Bearer \r\n"),
                                    std::string("Authorization: Basic other-key\r\n"),
                                    std::string("Authorization: other-key\r\n")}) {
    for (const char* path : {"/v1/completions", kChat, "/tokenize", "/detokenize", "/nothing"}) {
      const HttpResponse response = Fetch(addresses_.http, "POST", path, "{", header);
      EXPECT_EQ(response.status, 401) << path << header;
      EXPECT_EQ(response.headers.at("www-authenticate"), "Bearer");
      const json error = response.json()["error"];
      EXPECT_EQ(error["type"], "invalid_request_error");
      EXPECT_EQ(error["code"], "invalid_api_key");
      if (said.empty()) said = response.body;
      EXPECT_EQ(response.body, said);  // the same, whatever was wrong
    }
    EXPECT_EQ(Fetch(addresses_.http, "GET", "/v1/models", "", header).status, 401);
  }
  EXPECT_EQ(Fetch(addresses_.http, "GET", "/v1/models", "", "authorization: bearer  other-key \r\n")
                .status,
            200);
}

TEST_F(CallersTest, ABodyIsNotReadForNobody) {
  SocketClient client(addresses_.http);
  client.Send("POST /v1/completions HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().status, 401);
}

TEST_F(CallersTest, GrpcAsksTheSame) {
  const auto stub = Stub();
  for (const std::string& tenant : {std::string(), std::string("wrong-wrong")}) {
    grpc::ClientContext one, two;
    SetUpContext(&one, tenant);
    SetUpContext(&two, tenant);
    v1::ListModelsResponse models;
    EXPECT_EQ(stub->ListModels(&one, {}, &models).error_code(), grpc::UNAUTHENTICATED);
    v1::GenerateRequest request;
    request.set_text("x");
    v1::GenerateResponse message;
    const auto reader = stub->Generate(&two, request);
    EXPECT_FALSE(reader->Read(&message));
    EXPECT_EQ(reader->Finish().error_code(), grpc::UNAUTHENTICATED);
  }
  EXPECT_EQ(executor_->sampled(), 0u);
  grpc::ClientContext known;
  SetUpContext(&known, "other");
  v1::GenerateRequest request;
  request.set_text("x");
  const auto reader = stub->Generate(&known, request);
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(CallersTest, AModelThatIsNotAllowedDoesNotExist) {
  const auto refusal = [this](const std::string& tenant, const std::string& model) {
    const HttpResponse response =
        PostAs(tenant, "/v1/completions", {{"prompt", "x"}, {"model", model}});
    EXPECT_EQ(response.status, 404);
    EXPECT_EQ(response.json()["error"]["code"], "model_not_found");
    return response.json()["error"]["message"].get<std::string>();
  };
  const std::string unknown = refusal("stranger", "demX");
  std::string hidden = refusal("stranger", "demo");
  hidden.replace(hidden.find("demo"), 4, "demX");
  EXPECT_EQ(hidden, unknown);
  EXPECT_TRUE(
      Fetch(addresses_.http, "GET", "/v1/models", "", Header("stranger")).json()["data"].empty());
  EXPECT_EQ(Fetch(addresses_.http, "GET", "/v1/models/demo", "", Header("stranger")).status, 404);
  EXPECT_EQ(Fetch(addresses_.http, "GET", "/v1/models", "", Header("other")).json()["data"].size(),
            1u);
  EXPECT_EQ(PostAs("stranger", "/tokenize", {{"prompt", "x"}, {"model", "demo"}}).status, 404);
  EXPECT_EQ(PostAs("stranger", "/detokenize", {{"tokens", {5}}, {"model", "demo"}}).status, 404);

  const auto stub = Stub();
  grpc::ClientContext one, two;
  SetUpContext(&one, "stranger");
  SetUpContext(&two, "stranger");
  v1::ListModelsResponse models;
  EXPECT_TRUE(stub->ListModels(&one, {}, &models).ok());
  EXPECT_EQ(models.models_size(), 0);
  v1::GetModelRequest get;
  get.set_model("demo");
  v1::Model model;
  EXPECT_EQ(stub->GetModel(&two, get, &model).error_code(), grpc::NOT_FOUND);
}

TEST_F(CallersTest, PrioritiesHaveTheCallersBounds) {
  EXPECT_EQ(PostAs("other", "/v1/completions", {{"prompt", "x"}, {"priority", 5}}).status, 200);
  const HttpResponse high = PostAs("other", "/v1/completions", {{"prompt", "x"}, {"priority", 6}});
  EXPECT_EQ(high.status, 400);
  EXPECT_EQ(high.json()["error"]["param"], "priority");
}

TEST_F(CallersTest, ATenantsRequestsInFlightAreLimited) {
  executor_->Hold(true);
  auto first = std::make_unique<SocketClient>(addresses_.http);
  first->SendRequest("POST", "/v1/completions", R"({"prompt":"x"})", Header("narrow"));
  ASSERT_TRUE(WaitFor([this] { return Running() == 1; }));
  const HttpResponse second = PostAs("narrow", "/v1/completions", {{"prompt", "x"}});
  EXPECT_EQ(second.status, 429) << second.body;
  EXPECT_GE(std::stoi(second.headers.at("retry-after")), 1);
  const auto stub = Stub();
  grpc::ClientContext context;
  SetUpContext(&context, "narrow");
  v1::GenerateRequest request;
  request.set_text("x");
  v1::GenerateResponse message;
  const auto reader = stub->Generate(&context, request);
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_EQ(reader->Finish().error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after"), 1u);
  // The place is free again when the first one has ended, and when its client has gone away.
  executor_->Hold(false);
  EXPECT_EQ(first->ReadResponse().status, 200);
  EXPECT_EQ(PostAs("narrow", "/v1/completions", {{"prompt", "x"}}).status, 200);
  executor_->Hold(true);
  first->SendRequest("POST", "/v1/completions", R"({"prompt":"x"})", Header("narrow"));
  ASSERT_TRUE(WaitFor([this] { return Running() == 1; }));
  first.reset();
  executor_->Hold(false);
  EXPECT_TRUE(WaitFor([this] {
    return PostAs("narrow", "/v1/completions", {{"prompt", "x"}}).status == 200;
  }));
}

TEST_F(CallersTest, TokensThatWereNotUsedAreGivenBack) {
  // Each may use more than half of the 100 tokens per minute, and uses a few.
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(PostAs("thrifty", "/v1/completions", {{"prompt", "x"}, {"max_tokens", 60}}).status,
              200)
        << i;
  }
  AnswerForever(" the");
  EXPECT_EQ(PostAs("thrifty", "/v1/completions", {{"prompt", "x"}, {"max_tokens", 60}}).status,
            200);
  const HttpResponse refused =
      PostAs("thrifty", "/v1/completions", {{"prompt", "x"}, {"max_tokens", 60}});
  EXPECT_EQ(refused.status, 429);
  EXPECT_GT(std::stoi(refused.headers.at("retry-after")), 5);
}

TEST_F(CallersTest, ATokenThatNobodySeesIsNotCharged) {
  // A hundred requests of one prompt token within a minute's 100 tokens: the drawn ones are free.
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(PostAs("thrifty", "/v1/completions",
                     {{"prompt", {40}}, {"max_tokens", 0}, {"echo", true}, {"n", 3}})
                  .status,
              200)
        << i;
  }
}

TEST_F(CallersTest, SystemPromptsAreSharedByThoseWhoAgree) {
  std::string system = "You are a helpful machine.";
  for (int i = 0; i < 12; ++i) absl::StrAppend(&system, " Rule ", i, " is to be brief.");
  const auto cached = [&](const std::string& tenant, const std::string& user) {
    const json body =
        PostAs(
            tenant, kChat,
            {{"messages",
              {{{"role", "system"}, {"content", system}}, {{"role", "user"}, {"content", user}}}}})
            .json();
    return body["usage"]["prompt_tokens_details"]["cached_tokens"].get<int>();
  };
  EXPECT_EQ(cached("blue", "One?"), 0);
  const int shared = cached("red", "And two?");
  EXPECT_GE(shared, 32);  // whole blocks of 16
  EXPECT_EQ(cached("other", "And three?"), 0);
  EXPECT_EQ(cached("narrow", "And three?"), 0);
  EXPECT_GE(cached("other", "And three?"), shared);  // its own
}

TEST(CountSystemTokensTest, ExactlyWhatTheSystemMessagesDecide) {
  const ServedModel model = DemoModel();
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  const std::vector<ChatTurn> one = {{"system", "Be brief."}, {"user", "Why?"}};
  const std::vector<ChatTurn> two = {
      {"system", "Be brief."}, {"user", "How?"}, {"assistant", "So."}};
  const auto first = PromptFromChat(model, one, now);
  const auto second = PromptFromChat(model, two, now);
  ASSERT_TRUE(first.ok() && second.ok());
  const uint32_t count = CountSystemTokens(model, one, *first, now);
  EXPECT_EQ(count, CountSystemTokens(model, two, *second, now));
  EXPECT_GT(count, 3u);
  EXPECT_LT(count, first->size());
  EXPECT_TRUE(std::equal(first->begin(), first->begin() + count, second->begin()));
  // Nothing of the user's is among them.
  const auto text = Detokenize(model, {first->begin(), first->begin() + count}, false, "x");
  EXPECT_THAT(*text, HasSubstr("Be brief."));
  EXPECT_EQ(text->find("user"), std::string::npos) << *text;
  EXPECT_EQ(CountSystemTokens(model, {{"user", "Why?"}}, *first, now), 0u);
}

}  // namespace
}  // namespace tessera::api
