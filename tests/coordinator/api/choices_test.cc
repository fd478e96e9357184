// Several choices of one request: their texts, ends, stop strings and usage, whole and streamed,
// and the best of many.

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tessera/v1/tessera.grpc.pb.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;

const std::vector<std::string> kTexts = {"The first answer is this one.", "Another.",
                                         "And a third, which is the longest of all of them."};

class ChoicesTest : public ApiFixture {
 protected:
  void SetUp() override {
    ApiFixture::SetUp();
    AnswerChoicesWith(kTexts);
  }
  // Tokens of a choice, its end token included.
  size_t Tokens(size_t choice) const { return Encode(model_, kTexts[choice]).size() + 1; }
  size_t AllTokens() const { return Tokens(0) + Tokens(1) + Tokens(2); }
};

TEST_F(ChoicesTest, WholeAnswersHaveThemAll) {
  for (const bool chat : {false, true}) {
    json request = {{"n", 3}};
    if (chat) {
      request["messages"] = {{{"role", "user"}, {"content", "Why?"}}};
    } else {
      request["prompt"] = "Why?";
    }
    const HttpResponse response =
        Post(chat ? "/v1/chat/completions" : "/v1/completions", request.dump());
    ASSERT_EQ(response.status, 200) << response.body;
    const json body = response.json();
    ASSERT_EQ(body["choices"].size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      const json& choice = body["choices"][i];
      EXPECT_EQ(choice["index"], i);
      EXPECT_EQ(chat ? choice["message"]["content"] : choice["text"], kTexts[i]);
      EXPECT_EQ(choice["finish_reason"], "stop");
    }
    EXPECT_EQ(body["usage"]["completion_tokens"], AllTokens());
  }
}

TEST_F(ChoicesTest, StreamsCarryTheirIndex) {
  for (const bool chat : {false, true}) {
    json request = {{"n", 3}, {"stream", true}, {"stream_options", {{"include_usage", true}}}};
    if (chat) {
      request["messages"] = {{{"role", "user"}, {"content", "Why?"}}};
    } else {
      request["prompt"] = "Why?";
    }
    const HttpResponse response =
        Post(chat ? "/v1/chat/completions" : "/v1/completions", request.dump());
    ASSERT_EQ(response.status, 200) << response.body;
    std::map<int, std::string> texts;
    std::map<int, int> ends, roles;
    const std::vector<std::string> events = response.events();
    ASSERT_GE(events.size(), 5u);
    EXPECT_EQ(events.back(), "[DONE]");
    EXPECT_EQ(json::parse(events[events.size() - 2])["usage"]["completion_tokens"], AllTokens());
    for (size_t i = 0; i + 2 < events.size(); ++i) {
      const json chunk = json::parse(events[i]);
      ASSERT_EQ(chunk["choices"].size(), 1u);
      const json& choice = chunk["choices"][0];
      const int index = choice["index"];
      EXPECT_EQ(ends[index], 0) << "something came after the end of choice " << index;
      texts[index] += chat ? choice["delta"].value("content", "") : choice.value("text", "");
      roles[index] += chat && choice["delta"].contains("role");
      ends[index] += choice["finish_reason"] == "stop";
    }
    ASSERT_EQ(texts.size(), 3u);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(texts[i], kTexts[static_cast<size_t>(i)]);
      EXPECT_EQ(ends[i], 1);
      EXPECT_EQ(roles[i], chat ? 1 : 0);
    }
  }
}

TEST_F(ChoicesTest, EachEndsAtItsOwnStopString) {
  for (const bool stream : {false, true}) {
    const HttpResponse response = Post("/v1/completions", json{{"prompt", "Why?"},
                                                               {"n", 3},
                                                               {"stop", {"answer", "longest"}},
                                                               {"max_tokens", Tokens(2) - 1},
                                                               {"stream", stream}}
                                                              .dump());
    ASSERT_EQ(response.status, 200) << response.body;
    std::map<int, std::string> texts, reasons, stops;
    const auto take = [&](const json& choice) {
      const int index = choice["index"];
      texts[index] += choice["text"].get<std::string>();
      if (choice["finish_reason"].is_null()) return;
      reasons[index] = choice["finish_reason"];
      stops[index] = choice.value("stop_reason", "");
    };
    if (stream) {
      for (const std::string& event : response.events()) {
        if (event != "[DONE]") take(json::parse(event)["choices"][0]);
      }
    } else {
      const json body = response.json();
      for (const json& choice : body["choices"]) take(choice);
    }
    EXPECT_EQ(texts[0], "The first ");
    EXPECT_EQ(texts[1], kTexts[1]);
    EXPECT_EQ(texts[2], "And a third, which is the ");
    for (int i = 0; i < 3; ++i) EXPECT_EQ(reasons[i], "stop");
    EXPECT_EQ(stops[0], "answer");
    EXPECT_EQ(stops[1], "");
    EXPECT_EQ(stops[2], "longest");
  }
  EXPECT_TRUE(WaitFor([this] { return Running() == 0; }));
}

TEST_F(ChoicesTest, EachHasItsOwnFinishReason) {
  const json body =
      Post("/v1/completions", json{{"prompt", "Why?"}, {"n", 3}, {"max_tokens", Tokens(1)}}.dump())
          .json();
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(body["choices"][1]["finish_reason"], "stop");
  EXPECT_EQ(body["choices"][2]["finish_reason"], "length");
  EXPECT_EQ(body["usage"]["completion_tokens"], 3 * Tokens(1));
}

TEST_F(ChoicesTest, TheBestOfManyByMeanLogProbability) {
  // What each choice is worth, by the same rule on this side.
  const size_t prompt = Post("/tokenize", R"({"prompt":"Why?"})").json()["count"].get<size_t>();
  std::vector<std::pair<double, size_t>> ranking;
  for (size_t choice = 0; choice < 3; ++choice) {
    std::vector<int32_t> ids = Encode(model_, kTexts[choice]);
    ids.push_back(model_.defaults.eos_token_ids.front());
    double sum = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      sum += ScriptedExecutor::Logprob(ids[i], prompt + i, static_cast<uint32_t>(choice));
    }
    ranking.emplace_back(-sum / static_cast<double>(ids.size()), choice);
  }
  std::sort(ranking.begin(), ranking.end());
  const json body = Post("/v1/completions", R"({"prompt":"Why?","n":2,"best_of":3})").json();
  ASSERT_EQ(body["choices"].size(), 2u) << body;
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(body["choices"][i]["index"], i);
    EXPECT_EQ(body["choices"][i]["text"], kTexts[ranking[i].second]);
    EXPECT_TRUE(body["choices"][i]["logprobs"].is_null());  // nobody asked for them
  }
  EXPECT_EQ(body["usage"]["completion_tokens"], AllTokens());  // all that were made
}

TEST_F(ChoicesTest, GrpcMessagesSayTheirChoice) {
  const auto stub = v1::Tessera::NewStub(
      grpc::CreateChannel(addresses_.grpc, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  v1::GenerateRequest request;
  request.set_text("Why?");
  request.mutable_sampling()->set_n(3);
  request.mutable_sampling()->add_stop("longest");
  const auto reader = stub->Generate(&context, request);
  std::map<uint32_t, std::string> texts;
  std::map<uint32_t, size_t> tokens;
  std::map<uint32_t, int> ends;
  v1::GenerateResponse message, last;
  while (reader->Read(&message)) {
    EXPECT_FALSE(last.has_usage());
    EXPECT_EQ(ends[message.choice()], 0);
    texts[message.choice()] += message.text();
    tokens[message.choice()] += static_cast<size_t>(message.token_ids_size());
    ends[message.choice()] += message.finish_reason() == v1::FINISH_REASON_STOP;
    last = message;
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(texts[0], kTexts[0]);
  EXPECT_EQ(texts[1], kTexts[1]);
  EXPECT_EQ(texts[2], "And a third, which is the ");
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(ends[i], 1);
  EXPECT_EQ(last.usage().completion_tokens(), tokens[0] + tokens[1] + tokens[2]);
  EXPECT_EQ(tokens[0], Tokens(0));
}

TEST_F(ChoicesTest, AClientThatGoesAwayFreesThemAll) {
  executor_->SetStepTime(absl::Milliseconds(2));
  AnswerForever(" the");
  const int64_t before = engine_->Stats().groups[0].blocks_free[0];
  auto client = std::make_unique<SocketClient>(addresses_.http);
  client->SendRequest("POST", "/v1/completions", R"({"prompt":"x","n":4,"stream":true})");
  ASSERT_TRUE(WaitFor([this] { return Running() == 4; }));
  client.reset();
  EXPECT_TRUE(WaitFor(
      [&] { return Running() == 0 && engine_->Stats().groups[0].blocks_free[0] == before; }));
}

}  // namespace
}  // namespace tessera::api
