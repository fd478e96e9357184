// A model that nobody computes any more: open answers of it end with the reason, at both doors, new
// ones are refused with it, and nothing of it stays in the engine.

#include "coordinator/api/lost_models.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "tessera/v1/tessera.grpc.pb.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr char kReason[] = "the model is not served any more: rank 1 (local-1) exited with 3";

class LostModelsTest : public ApiFixture {
 protected:
  void SetUp() override {
    ApiFixture::SetUp();
    executor_->SetStepTime(absl::Milliseconds(2));
    AnswerForever(" the");
  }
  void Lose() { server_->LoseModel(0, absl::UnavailableError(kReason)); }
  // As it is when the group is gone: nothing is computed, requests wait in the queue.
  void LoseGroup() {
    executor_->Hold(true);
    engine_->Post(GroupLost{.group = 0, .epoch = 1, .reason = absl::UnavailableError("gone")});
    ASSERT_TRUE(WaitFor([this] { return Running() == 0; }));
  }
  bool IsIdle() {
    return WaitFor([this] {
      const SchedulerStats stats = engine_->Stats();
      return stats.running == 0 && stats.waiting == 0;
    });
  }
};

TEST_F(LostModelsTest, OpenStreamsEndWithAnErrorEvent) {
  for (const bool group_is_lost : {false, true}) {
    SocketClient client(addresses_.http);
    client.SendRequest("POST", "/v1/completions", R"({"prompt":"x","stream":true})");
    ASSERT_TRUE(client.ReadUntil("\"text\":\" the"));
    if (group_is_lost) LoseGroup();
    Lose();
    const HttpResponse response = client.ReadResponse();
    const std::vector<std::string> events = response.events();
    ASSERT_FALSE(events.empty()) << response.body;
    const json error = json::parse(events.back())["error"];
    EXPECT_EQ(error["message"], kReason);
    EXPECT_EQ(error["type"], "service_unavailable");
    EXPECT_THAT(response.body, Not(HasSubstr("[DONE]")));
    EXPECT_TRUE(IsIdle());
    server_->RegainModel(0);
  }
}

TEST_F(LostModelsTest, WholeAnswersAndStreamsBeforeTheirFirstTextAre503) {
  for (const char* body : {R"({"prompt":"x"})", R"({"prompt":"x","stream":true})"}) {
    executor_->Hold(true);
    SocketClient client(addresses_.http);
    client.SendRequest("POST", "/v1/completions", body);
    ASSERT_TRUE(WaitFor([this] { return Running() == 1; }));
    Lose();
    const HttpResponse response = client.ReadResponse();
    EXPECT_EQ(response.status, 503) << response.body;
    EXPECT_EQ(response.json()["error"]["message"], kReason);
    executor_->Hold(false);
    EXPECT_TRUE(IsIdle());
    server_->RegainModel(0);
  }
}

TEST_F(LostModelsTest, GrpcStreamsEndUnavailable) {
  const auto stub = v1::Tessera::NewStub(
      grpc::CreateChannel(addresses_.grpc, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  v1::GenerateRequest request;
  request.set_text("x");
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  LoseGroup();
  Lose();
  while (reader->Read(&message)) {
    EXPECT_EQ(message.finish_reason(), v1::FINISH_REASON_UNSPECIFIED);
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), kReason);
  EXPECT_TRUE(IsIdle());
}

TEST_F(LostModelsTest, NewRequestsAreRefusedWithTheReasonUntilItIsBack) {
  Lose();
  const HttpResponse refused = Post("/v1/completions", R"({"prompt":"x","max_tokens":3})");
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.json()["error"]["message"], kReason);
  const HttpResponse ready = Get("/readyz");
  EXPECT_EQ(ready.status, 503);
  EXPECT_THAT(ready.body, HasSubstr(kReason));
  EXPECT_EQ(Get("/v1/models").json()["data"][0]["ready"], false);
  EXPECT_EQ(executor_->sampled(), 0u);
  server_->RegainModel(0);
  EXPECT_EQ(Post("/v1/completions", R"({"prompt":"x","max_tokens":3})").status, 200);
  EXPECT_EQ(Get("/readyz").status, 200);
}

TEST(LossWatchTest, HearsOfItsModelAsLongAsItLives) {
  const auto models = std::make_shared<LostModels>();
  int woken = 0;
  int other = 0;
  auto watch = std::make_unique<LossWatch>(models, 3, [&woken] { ++woken; });
  const LossWatch elsewhere(models, 4, [&other] { ++other; });
  EXPECT_TRUE(watch->Check().ok());
  models->Lose(3, absl::UnavailableError("a"));
  EXPECT_EQ(woken, 1);
  EXPECT_EQ(watch->Check().message(), "a");
  models->Regain(3);
  EXPECT_TRUE(watch->Check().ok());
  watch.reset();
  models->Lose(3, absl::UnavailableError("b"));
  EXPECT_EQ(woken, 1);
  EXPECT_EQ(other, 0);
  EXPECT_TRUE(elsewhere.Check().ok());
}

}  // namespace
}  // namespace tessera::api
