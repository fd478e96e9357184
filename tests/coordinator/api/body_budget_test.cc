// The bytes of all request bodies together, at both doors.

#include "coordinator/api/body_budget.h"

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "coordinator/api/status_map.h"
#include "tessera/v1/tessera.grpc.pb.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

constexpr size_t kBodyBytes = 200'000;

TEST(BodyBudgetTest, IsGivenBackByLeases) {
  const auto budget = std::make_shared<BodyBudget>(100);
  {
    BodyLease one(budget), two(budget);
    EXPECT_TRUE(one.GrowTo(60).ok());
    EXPECT_TRUE(one.GrowTo(40).ok());  // holds 60 already
    EXPECT_TRUE(two.GrowTo(40).ok());
    const absl::Status full = two.GrowTo(41);
    EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(HttpOf(full), 503);
    EXPECT_EQ(budget->held(), 100u);
    one.Release();
    EXPECT_TRUE(two.GrowTo(100).ok());
    const BodyLease moved = std::move(two);
    EXPECT_EQ(budget->held(), 100u);
  }
  EXPECT_EQ(budget->held(), 0u);
}

class BodyLimitTest : public ApiFixture {
 protected:
  void Configure(ApiOptions* options, SchedulerOptions*) override {
    options->body_bytes_max = kBodyBytes;
  }
  static std::string Padded(size_t bytes) {
    std::string body = R"({"prompt":"x"})";
    body.resize(bytes, ' ');
    return body;
  }
  static void ExpectOverloaded(const HttpResponse& response) {
    EXPECT_EQ(response.status, 503) << response.body;
    EXPECT_EQ(response.headers.at("retry-after"), "1");
    EXPECT_EQ(response.json()["error"]["code"], "server_overloaded");
  }
};

TEST_F(BodyLimitTest, AnAnnouncedBodyIsRefusedBeforeItComes) {
  SocketClient first(addresses_.http);
  const std::string body = Padded(150'000);
  first.Send(absl::StrCat(
      "POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: ", body.size(),
      "\r\n\r\n"));
  ASSERT_EQ(first.ReadResponse().status, 100);  // it is counted now
  first.Send(body.substr(0, 1000));
  // The second one would not fit beside it, and is told so without sending anything.
  EXPECT_TRUE(WaitFor([this] {
    SocketClient second(addresses_.http);
    second.Send("POST /v1/completions HTTP/1.1\r\nContent-Length: 100000\r\n\r\n");
    const HttpResponse response = second.ReadResponse();
    if (response.status == 503) ExpectOverloaded(response);
    return response.status == 503;
  }));
  EXPECT_EQ(Post("/v1/completions", Padded(1000)).status, 200);  // a small one fits
  first.Send(body.substr(1000));
  EXPECT_EQ(first.ReadResponse().status, 200);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Post("/v1/completions", Padded(kBodyBytes)).status, 200);
}

TEST_F(BodyLimitTest, AnAnswerThatIsMadeHoldsNoBody) {
  executor_->SetStepTime(absl::Milliseconds(2));
  AnswerForever(" the");
  SocketClient first(addresses_.http);
  std::string body = R"({"prompt":"x","stream":true})";
  body.resize(kBodyBytes, ' ');
  first.SendRequest("POST", "/v1/completions", body);
  ASSERT_TRUE(first.ReadUntil("\" the"));
  EXPECT_EQ(Post("/v1/completions", R"({"prompt":"x","max_tokens":1})").status, 200);
}

TEST_F(BodyLimitTest, AChunkedBodyIsRefusedWhileItComes) {
  SocketClient client(addresses_.http);
  client.Send("POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
  const std::string chunk = absl::StrCat("10000\r\n", std::string(1 << 16, ' '), "\r\n");
  for (int i = 0; i < 5; ++i) client.Send(chunk);
  ExpectOverloaded(client.ReadResponse());
  EXPECT_TRUE(
      WaitFor([this] { return Post("/v1/completions", Padded(kBodyBytes)).status == 200; }));
}

TEST_F(BodyLimitTest, GrpcMessagesCountToo) {
  const auto stub = v1::Tessera::NewStub(
      grpc::CreateChannel(addresses_.grpc, grpc::InsecureChannelCredentials()));
  const auto generate = [&](size_t bytes, grpc::ClientContext* context) {
    context->set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
    v1::GenerateRequest request;
    request.set_text("x");
    request.set_user(std::string(bytes, 'u'));
    const auto reader = stub->Generate(context, request);
    v1::GenerateResponse message;
    while (reader->Read(&message)) {
    }
    return reader->Finish().error_code();
  };
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext large;
    EXPECT_EQ(generate(kBodyBytes, &large), grpc::RESOURCE_EXHAUSTED);
    EXPECT_EQ(large.GetServerTrailingMetadata().count("retry-after"), 1u);
    // The bytes come back when the call has ended on the server, a moment after the client knows.
    EXPECT_TRUE(WaitFor([&] {
      grpc::ClientContext fits;
      return generate(kBodyBytes / 2 + 1, &fits) == grpc::OK;
    }));
    EXPECT_TRUE(WaitFor([&] { return Post("/tokenize", Padded(kBodyBytes)).status == 200; }));
  }
}

}  // namespace
}  // namespace tessera::api
