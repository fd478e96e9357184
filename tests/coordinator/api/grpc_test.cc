// The gRPC door, over a real channel: streams, stop strings, deadline, cancel, trailers, health,
// reflection.

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tessera/v1/tessera.grpc.pb.h"
#include "tests/coordinator/api/api_fixture.h"
#include "tests/coordinator/api/raw_grpc.h"

namespace tessera::api {
namespace {

using testing::HasSubstr;

constexpr char kAnswer[] = "The scheduler admits a request when its blocks are free.";

struct Stream {
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<v1::GenerateResponse> messages;
  grpc::Status status;
  std::multimap<std::string, std::string> trailers;
};

class GrpcTest : public ApiFixture {
 protected:
  void SetUp() override {
    ApiFixture::SetUp();
    AnswerWith(kAnswer);
    channel_ = grpc::CreateChannel(addresses_.grpc, grpc::InsecureChannelCredentials());
    stub_ = v1::Tessera::NewStub(channel_);
  }

  static void SetDeadline(grpc::ClientContext* context, absl::Duration limit = absl::Seconds(10)) {
    context->set_deadline(absl::ToChronoTime(absl::Now() + limit));
  }
  static Stream ReadAll(grpc::ClientContext* context,
                        grpc::ClientReader<v1::GenerateResponse>* reader) {
    Stream stream;
    v1::GenerateResponse message;
    while (reader->Read(&message)) {
      stream.text += message.text();
      stream.token_ids.insert(stream.token_ids.end(), message.token_ids().begin(),
                              message.token_ids().end());
      stream.messages.push_back(message);
    }
    stream.status = reader->Finish();
    for (const auto& [name, value] : context->GetServerTrailingMetadata()) {
      stream.trailers.emplace(std::string(name.data(), name.size()),
                              std::string(value.data(), value.size()));
    }
    return stream;
  }
  Stream Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    SetDeadline(&context);
    return ReadAll(&context, stub_->Generate(&context, request).get());
  }
  Stream Chat(const v1::ChatRequest& request) {
    grpc::ClientContext context;
    SetDeadline(&context);
    return ReadAll(&context, stub_->Chat(&context, request).get());
  }

  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Tessera::Stub> stub_;
};

TEST_F(GrpcTest, Generate) {
  v1::GenerateRequest request;
  request.set_text("What is it?");
  request.mutable_sampling()->set_seed(42);
  const Stream stream = Generate(request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.text, kAnswer);
  std::vector<int32_t> expected = Encode(model_, kAnswer);
  expected.push_back(model_.defaults.eos_token_ids.front());
  EXPECT_EQ(stream.token_ids, expected);
  const v1::GenerateResponse& first = stream.messages.front();
  const v1::GenerateResponse& last = stream.messages.back();
  EXPECT_EQ(first.seed(), 42u);
  EXPECT_EQ(first.model(), "demo");
  EXPECT_EQ(last.id(), first.id());
  EXPECT_EQ(last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(last.usage().completion_tokens(), expected.size());
  EXPECT_GT(last.usage().prompt_tokens(), 0u);
  for (size_t i = 0; i + 1 < stream.messages.size(); ++i) {
    EXPECT_EQ(stream.messages[i].finish_reason(), v1::FINISH_REASON_UNSPECIFIED);
    EXPECT_FALSE(stream.messages[i].has_usage());
  }
  EXPECT_EQ(stream.trailers.count("x-request-id"), 1u);
}

TEST_F(GrpcTest, SeedsAreDrawnAndTold) {
  v1::GenerateRequest request;
  request.set_text("x");
  EXPECT_NE(Generate(request).messages.front().seed(), Generate(request).messages.front().seed());
}

TEST_F(GrpcTest, ChatIsTheTemplateThenGenerate) {
  v1::ChatRequest request;
  auto* message = request.add_messages();
  message->set_role("user");
  message->set_content("Why?");
  request.mutable_sampling()->set_max_tokens(3);
  const Stream stream = Chat(request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.messages.back().finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(stream.messages.back().usage().completion_tokens(), 3u);
  const auto counted =
      Post("/tokenize", R"({"messages":[{"role":"user","content":"Why?"}]})").json();
  EXPECT_EQ(stream.messages.back().usage().prompt_tokens(), counted["count"]);
}

TEST_F(GrpcTest, StopStrings) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(5);
  request.mutable_sampling()->add_stop("mits a req");
  const Stream stream = Generate(request);
  EXPECT_EQ(stream.text, "The scheduler ad");
  EXPECT_EQ(stream.messages.back().stop_reason(), "mits a req");
  EXPECT_EQ(stream.messages.back().finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(stream.messages.back().usage().completion_tokens(), stream.token_ids.size());
}

TEST_F(GrpcTest, ErrorsNameTheField) {
  struct Case {
    std::function<void(v1::GenerateRequest&)> set;
    grpc::StatusCode code;
    std::string says;
  };
  for (const Case& bad : std::vector<Case>{
           {[](auto& r) { r.set_text(""); }, grpc::INVALID_ARGUMENT, "text"},
           {[](auto& r) { r.clear_prompt(); }, grpc::INVALID_ARGUMENT, "prompt"},
           {[](auto& r) { r.mutable_token_ids(); }, grpc::INVALID_ARGUMENT, "token_ids"},
           {[](auto& r) { r.mutable_token_ids()->add_ids(-1); }, grpc::INVALID_ARGUMENT,
            "token_ids"},
           {[](auto& r) { r.set_model("other"); }, grpc::NOT_FOUND, "`other`"},
           {[](auto& r) { r.mutable_sampling()->set_temperature(3); }, grpc::INVALID_ARGUMENT,
            "temperature"},
           {[](auto& r) { r.mutable_sampling()->set_max_tokens(4'000'000'000); },
            grpc::INVALID_ARGUMENT, "max_tokens"},
           {[](auto& r) { r.mutable_sampling()->set_n(129); }, grpc::INVALID_ARGUMENT, "`n`"},
           {[](auto& r) { r.mutable_sampling()->set_min_p(1.5); }, grpc::INVALID_ARGUMENT, "min_p"},
           {[](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[1] = 101; },
            grpc::INVALID_ARGUMENT, "logit_bias"},
           {[](auto& r) { r.mutable_sampling()->set_top_logprobs(21); }, grpc::INVALID_ARGUMENT,
            "top_logprobs"},
           {[](auto& r) { r.mutable_sampling()->add_bad_words("two words"); },
            grpc::INVALID_ARGUMENT, "bad_words"},
           {[](auto& r) { r.set_priority(-101); }, grpc::INVALID_ARGUMENT, "priority"}}) {
    v1::GenerateRequest request;
    request.set_text("x");
    bad.set(request);
    const Stream stream = Generate(request);
    EXPECT_EQ(stream.status.error_code(), bad.code) << stream.status.error_message();
    EXPECT_THAT(stream.status.error_message(), HasSubstr(bad.says));
    EXPECT_EQ(stream.trailers.count("x-request-id"), 1u);
  }
  v1::ChatRequest empty;
  EXPECT_EQ(Chat(empty).status.error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(GrpcTest, ADeadlineEndsTheRequestEverywhere) {
  executor_->SetStepTime(absl::Milliseconds(2));
  AnswerForever(" the");
  grpc::ClientContext context;
  SetDeadline(&context, absl::Milliseconds(200));
  v1::GenerateRequest request;
  request.set_text("x");
  const Stream stream = ReadAll(&context, stub_->Generate(&context, request).get());
  EXPECT_EQ(stream.status.error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_TRUE(WaitFor([this] { return Running() == 0; }));
}

TEST_F(GrpcTest, AClientThatCancelsFreesItsBlocks) {
  executor_->SetStepTime(absl::Milliseconds(2));
  AnswerForever(" the");
  const int64_t before = engine_->Stats().groups[0].blocks_free[0];
  grpc::ClientContext context;
  SetDeadline(&context);
  v1::GenerateRequest request;
  request.set_text("x");
  auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  const uint64_t sampled = executor_->sampled();
  context.TryCancel();
  EXPECT_TRUE(WaitFor(
      [&] { return Running() == 0 && engine_->Stats().groups[0].blocks_free[0] == before; }));
  EXPECT_LT(executor_->sampled() - sampled, 100u);
  EXPECT_EQ(reader->Finish().error_code(), grpc::CANCELLED);
}

TEST_F(GrpcTest, ASlowReaderGetsFewerLargerMessages) {
  AnswerForever(" the");
  grpc::ClientContext context;
  SetDeadline(&context);
  v1::GenerateRequest request;
  request.set_text("x");
  auto reader = stub_->Generate(&context, request);
  EXPECT_TRUE(WaitFor([this] { return executor_->sampled() > 400 && Running() == 0; }));
  const Stream stream = ReadAll(&context, reader.get());
  EXPECT_TRUE(stream.status.ok());
  EXPECT_EQ(stream.token_ids.size(), stream.messages.back().usage().completion_tokens());
}

TEST_F(GrpcTest, UnaryMethods) {
  const std::string text = "Hello 🚀";
  v1::TokenizeRequest tokenize;
  tokenize.set_text(text);
  tokenize.set_add_special_tokens(false);
  v1::TokenizeResponse tokens;
  grpc::ClientContext one;
  ASSERT_TRUE(stub_->Tokenize(&one, tokenize, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), testing::ElementsAreArray(Encode(model_, text)));
  EXPECT_EQ(tokens.context_max(), 512u);
  EXPECT_EQ(one.GetServerTrailingMetadata().count("x-request-id"), 1u);

  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse back;
  grpc::ClientContext two;
  ASSERT_TRUE(stub_->Detokenize(&two, detokenize, &back).ok());
  EXPECT_EQ(back.text(), text);

  v1::ListModelsResponse models;
  grpc::ClientContext three;
  ASSERT_TRUE(stub_->ListModels(&three, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).name(), "demo");
  EXPECT_TRUE(models.models(0).ready());
  EXPECT_EQ(models.models(0).context_max(), 512u);
  EXPECT_GT(models.models(0).parameters(), 1000u);

  v1::GetModelRequest unknown;
  unknown.set_model("other");
  v1::Model model;
  grpc::ClientContext four;
  EXPECT_EQ(stub_->GetModel(&four, unknown, &model).error_code(), grpc::NOT_FOUND);
}

TEST_F(GrpcTest, RequestIdsAreTakenOver) {
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "mine-1");
  v1::ListModelsResponse models;
  ASSERT_TRUE(stub_->ListModels(&context, {}, &models).ok());
  EXPECT_EQ(context.GetServerTrailingMetadata().find("x-request-id")->second, "mine-1");
}

TEST_F(GrpcTest, HealthOnBothPortsFollowsReadiness) {
  for (const std::string& address : {addresses_.grpc, addresses_.health}) {
    for (const std::string& service : {std::string(), std::string("tessera.v1.Tessera")}) {
      EXPECT_TRUE(WaitFor([&] { return CheckHealth(address, service) == HealthAnswer::kServing; }))
          << address << service;
    }
    EXPECT_EQ(CheckHealth(address, "other"), HealthAnswer::kUnknownService);
  }
  server_->BeginDrain();
  EXPECT_EQ(CheckHealth(addresses_.grpc, ""), HealthAnswer::kNotServing);
  EXPECT_EQ(CheckHealth(addresses_.health, ""), HealthAnswer::kNotServing);
  v1::GenerateRequest request;
  request.set_text("x");
  const Stream stream = Generate(request);
  EXPECT_EQ(stream.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(stream.trailers.count("retry-after"), 1u);
}

TEST_F(GrpcTest, NoReflectionUnlessAskedFor) {
  EXPECT_EQ(ListServices(addresses_.grpc).status.error_code(), grpc::UNIMPLEMENTED);
}

class ReflectionTest : public GrpcTest {
 protected:
  void Configure(ApiOptions* options, SchedulerOptions*) override { options->reflection = true; }
};

TEST_F(ReflectionTest, ListsTheService) {
  const ReflectionAnswer answer = ListServices(addresses_.grpc);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_THAT(answer.bytes, HasSubstr("tessera.v1.Tessera"));
  EXPECT_EQ(ListServices(addresses_.health).status.error_code(), grpc::UNIMPLEMENTED);
}

class SmallQueueTest : public GrpcTest {
 protected:
  void Configure(ApiOptions*, SchedulerOptions* scheduler) override {
    scheduler->waiting_max = 1;
    scheduler->rows_max = 1;
  }
};

TEST_F(SmallQueueTest, AFullQueueIsResourceExhausted) {
  executor_->Hold(true);
  v1::GenerateRequest request;
  request.set_text("x");
  grpc::ClientContext contexts[2];
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> readers[2];
  for (int i = 0; i < 2; ++i) {
    readers[i] = stub_->Generate(&contexts[i], request);
    ASSERT_TRUE(WaitFor([this, i] {
      const SchedulerStats stats = engine_->Stats();
      return stats.running + stats.waiting >= i + 1;
    }));
  }
  const Stream stream = Generate(request);
  EXPECT_EQ(stream.status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(stream.trailers.find("retry-after")->second, "1");
  for (grpc::ClientContext& context : contexts) context.TryCancel();
}

}  // namespace
}  // namespace tessera::api
