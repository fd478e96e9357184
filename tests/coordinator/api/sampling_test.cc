// Every sampling parameter through both doors, down to what the ranks are told.

#include <google/protobuf/util/message_differencer.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>

#include "absl/time/clock.h"
#include "tessera/v1/tessera.grpc.pb.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;

class SamplingTest : public ApiFixture {
 protected:
  cluster::v1::SamplingParams ToldOverHttp(json request) {
    request["prompt"] = "x";
    const HttpResponse response = Post("/v1/completions", request.dump());
    EXPECT_EQ(response.status, 200) << response.body;
    seed_ = response.json().value("seed", uint64_t{0});
    return executor_->last_sampling();
  }
  cluster::v1::SamplingParams ToldOverGrpc(const v1::SamplingParams& sampling) {
    const auto stub = v1::Tessera::NewStub(
        grpc::CreateChannel(addresses_.grpc, grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
    v1::GenerateRequest request;
    request.set_text("x");
    *request.mutable_sampling() = sampling;
    const auto reader = stub->Generate(&context, request);
    v1::GenerateResponse message;
    EXPECT_TRUE(reader->Read(&message));
    seed_ = message.seed();
    while (reader->Read(&message)) {
    }
    EXPECT_TRUE(reader->Finish().ok());
    return executor_->last_sampling();
  }
  // A word of the vocabulary, and it after a space where that is a token too.
  std::vector<int32_t> TokensOf(const std::string& word) {
    std::vector<int32_t> ids = Encode(model_, word);
    EXPECT_EQ(ids.size(), 1u) << word;
    const std::vector<int32_t> spaced = Encode(model_, " " + word);
    if (spaced.size() == 1) ids.push_back(spaced.front());
    return ids;
  }

  uint64_t seed_ = 0;  // as the last answer told it
};

TEST_F(SamplingTest, NothingIsOnByItself) {
  const cluster::v1::SamplingParams told = ToldOverHttp({});
  EXPECT_EQ(told.min_p(), 0);
  EXPECT_EQ(told.presence_penalty(), 0);
  EXPECT_EQ(told.frequency_penalty(), 0);
  EXPECT_TRUE(told.repetition_penalty() == 0 || told.repetition_penalty() == 1);
  EXPECT_TRUE(told.logit_bias().empty());
  EXPECT_EQ(told.allowed_token_ids_size() + told.banned_token_ids_size(), 0);
  EXPECT_EQ(told.min_tokens(), 0u);
  EXPECT_FALSE(told.logprobs());
  EXPECT_EQ(told.prompt_logprobs(), 0u);
}

TEST_F(SamplingTest, BothDoorsTellTheRanksTheSame) {
  const int32_t eos = model_.defaults.eos_token_ids.front();
  json http = {{"temperature", 0.5},
               {"top_k", 7},
               {"top_p", 0.75},
               {"min_p", 0.125},
               {"presence_penalty", 1.5},
               {"frequency_penalty", -0.5},
               {"repetition_penalty", 1.25},
               {"logit_bias", {{"40", -100}, {"41", 2.5}}},
               {"allowed_token_ids", {40, 41, 42, eos}},
               {"banned_token_ids", {42}},
               {"bad_words", {"a"}},
               {"seed", 77},
               {"min_tokens", 2},
               {"max_tokens", 9},
               {"logprobs", 3},
               {"prompt_logprobs", 2}};
  v1::SamplingParams grpc;
  grpc.set_temperature(0.5);
  grpc.set_top_k(7);
  grpc.set_top_p(0.75);
  grpc.set_min_p(0.125);
  grpc.set_presence_penalty(1.5);
  grpc.set_frequency_penalty(-0.5);
  grpc.set_repetition_penalty(1.25);
  (*grpc.mutable_logit_bias())[40] = -100;
  (*grpc.mutable_logit_bias())[41] = 2.5;
  for (const int32_t id : {40, 41, 42, eos}) grpc.add_allowed_token_ids(id);
  grpc.add_banned_token_ids(42);
  grpc.add_bad_words("a");
  grpc.set_seed(77);
  grpc.set_min_tokens(2);
  grpc.set_max_tokens(9);
  grpc.set_top_logprobs(3);
  grpc.set_prompt_logprobs(2);

  const cluster::v1::SamplingParams told = ToldOverHttp(http);
  EXPECT_EQ(seed_, 77u);
  EXPECT_EQ(told.temperature(), 0.5f);
  EXPECT_EQ(told.top_k(), 7u);
  EXPECT_EQ(told.top_p(), 0.75f);
  EXPECT_EQ(told.min_p(), 0.125f);
  EXPECT_EQ(told.presence_penalty(), 1.5f);
  EXPECT_EQ(told.frequency_penalty(), -0.5f);
  EXPECT_EQ(told.repetition_penalty(), 1.25f);
  EXPECT_EQ(told.logit_bias().at(40), -100.0f);
  EXPECT_EQ(told.logit_bias().at(41), 2.5f);
  EXPECT_EQ(told.allowed_token_ids_size(), 4);
  std::set<int32_t> banned = {42};
  for (const int32_t id : TokensOf("a")) banned.insert(id);
  EXPECT_EQ(std::set<int32_t>(told.banned_token_ids().begin(), told.banned_token_ids().end()),
            banned);
  EXPECT_EQ(told.seed(), 77u);
  EXPECT_EQ(told.min_tokens(), 2u);
  EXPECT_EQ(told.min_tokens_banned_size(), static_cast<int>(model_.defaults.eos_token_ids.size()));
  EXPECT_TRUE(told.logprobs());
  EXPECT_EQ(told.top_logprobs(), 3u);
  EXPECT_EQ(told.prompt_logprobs(), 3u);  // and the prompt token's own

  const cluster::v1::SamplingParams also = ToldOverGrpc(grpc);
  EXPECT_EQ(seed_, 77u);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(told, also))
      << told.DebugString() << also.DebugString();
}

TEST_F(SamplingTest, ARequestWithoutASeedGetsOneThatItIsTold) {
  const uint64_t first = ToldOverHttp({}).seed();
  EXPECT_EQ(seed_, first);
  const uint64_t second = ToldOverHttp({}).seed();
  EXPECT_EQ(seed_, second);
  EXPECT_NE(first, second);
  const uint64_t third = ToldOverGrpc({}).seed();
  EXPECT_EQ(seed_, third);
  EXPECT_NE(third, second);
}

TEST_F(SamplingTest, MinTokensHoldsStopStringsBack) {
  AnswerWith("ab ab ab ab ab");
  const size_t all = Encode(model_, "ab ab ab ab ab").size();
  for (size_t min = 0; min < all; ++min) {
    const json body =
        Post("/v1/completions", json{{"prompt", "x"}, {"stop", "b"}, {"min_tokens", min}}.dump())
            .json();
    EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
    EXPECT_GE(body["usage"]["completion_tokens"].get<size_t>(), min);
    EXPECT_LE(body["usage"]["completion_tokens"].get<size_t>(), min + 3) << body;
  }
}

}  // namespace
}  // namespace tessera::api
