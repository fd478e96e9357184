// Log probabilities as each API writes them: OpenAI's two, vLLM's prompt_logprobs, gRPC's; echo.

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "coordinator/api/http/openai_logprobs.h"
#include "coordinator/text/utf8.h"
#include "tessera/v1/tessera.grpc.pb.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;

constexpr char kScoredAnswer[] = "größe 東京 ok";  // characters of several tokens
constexpr char kPrompt[] = "Why is it so?";

class LogprobsTest : public ApiFixture {
 protected:
  void SetUp() override {
    ApiFixture::SetUp();
    AnswerWith(kScoredAnswer);
    answer_ = Encode(model_, kScoredAnswer);
    answer_.push_back(model_.defaults.eos_token_ids.front());
    prompt_ = Post("/tokenize", json{{"prompt", kPrompt}}.dump())
                  .json()["tokens"]
                  .get<std::vector<int32_t>>();
  }
  float Expected(size_t i) const {
    return ScriptedExecutor::Logprob(answer_[i], prompt_.size() + i, 0);
  }
  std::string Piece(int32_t id) const { return std::string(model_.tokenizer->PieceOf(id).bytes); }
  // Characters of the text that the first `count` tokens make, without an unfinished one.
  size_t Offset(const std::vector<int32_t>& ids, size_t count) const {
    std::string bytes;
    for (size_t i = 0; i < count; ++i) {
      if (!model_.tokenizer->PieceOf(ids[i]).special) bytes += Piece(ids[i]);
    }
    std::string text;
    text::SettleUtf8(&bytes, &text);
    return text::CountCharacters(text);
  }
  void ExpectChatContent(const json& content) {
    ASSERT_EQ(content.size(), answer_.size());
    for (size_t i = 0; i < answer_.size(); ++i) {
      EXPECT_EQ(content[i]["logprob"], Expected(i));
      std::string bytes;
      for (const json& byte : content[i]["bytes"]) bytes += static_cast<char>(byte.get<int>());
      EXPECT_EQ(bytes, Piece(answer_[i]));
      if (text::IsUtf8(bytes)) {
        EXPECT_EQ(content[i]["token"], bytes);
      }
      ASSERT_EQ(content[i]["top_logprobs"].size(), 2u);
      EXPECT_EQ(content[i]["top_logprobs"][0]["bytes"], content[i]["bytes"]);
      EXPECT_EQ(content[i]["top_logprobs"][1]["logprob"], Expected(i) - 0.125f);
    }
  }

  std::vector<int32_t> answer_;  // with its end token
  std::vector<int32_t> prompt_;
};

TEST_F(LogprobsTest, ChatWhole) {
  const json body =
      Post("/v1/chat/completions",
           R"({"messages":[{"role":"user","content":"Hi"}],"logprobs":true,"top_logprobs":2})")
          .json();
  const json counted = Post("/tokenize", R"({"messages":[{"role":"user","content":"Hi"}]})").json();
  prompt_.resize(counted["count"]);  // only its length matters here
  ExpectChatContent(body["choices"][0]["logprobs"]["content"]);
}

TEST_F(LogprobsTest, ChatStreamed) {
  const HttpResponse response =
      Post("/v1/chat/completions",
           R"({"messages":[{"role":"user","content":"Hi"}],"logprobs":true,"top_logprobs":2,)"
           R"("stream":true})");
  const json counted = Post("/tokenize", R"({"messages":[{"role":"user","content":"Hi"}]})").json();
  prompt_.resize(counted["count"]);
  json content = json::array();
  std::string text;
  for (const std::string& event : response.events()) {
    if (event == "[DONE]") continue;
    const json choice = json::parse(event)["choices"][0];
    text += choice["delta"].value("content", "");
    if (choice["logprobs"].is_null()) continue;
    for (const json& token : choice["logprobs"]["content"]) content.push_back(token);
  }
  EXPECT_EQ(text, kScoredAnswer);
  ExpectChatContent(content);
}

TEST_F(LogprobsTest, CompletionsWholeAndStreamed) {
  for (const bool stream : {false, true}) {
    const HttpResponse response = Post(
        "/v1/completions", json{{"prompt", kPrompt}, {"logprobs", 2}, {"stream", stream}}.dump());
    ASSERT_EQ(response.status, 200) << response.body;
    json columns = {{"tokens", json::array()},
                    {"token_logprobs", json::array()},
                    {"top_logprobs", json::array()},
                    {"text_offset", json::array()}};
    const auto take = [&columns](const json& logprobs) {
      if (logprobs.is_null()) return;
      for (auto& [name, column] : columns.items()) {
        for (const json& value : logprobs[name]) column.push_back(value);
      }
    };
    if (stream) {
      for (const std::string& event : response.events()) {
        if (event != "[DONE]") take(json::parse(event)["choices"][0]["logprobs"]);
      }
    } else {
      take(response.json()["choices"][0]["logprobs"]);
    }
    for (const json& column : columns) ASSERT_EQ(column.size(), answer_.size());
    for (size_t i = 0; i < answer_.size(); ++i) {
      const std::string piece = Piece(answer_[i]);
      const std::string token = columns["tokens"][i];
      if (text::IsUtf8(piece)) {
        EXPECT_EQ(token, piece);
      } else {
        EXPECT_EQ(token.rfind("bytes:\\x", 0), 0u) << token;
      }
      EXPECT_EQ(columns["token_logprobs"][i], Expected(i));
      EXPECT_EQ(columns["top_logprobs"][i][token], Expected(i));
      EXPECT_EQ(columns["text_offset"][i], Offset(answer_, i)) << i;
    }
  }
}

TEST_F(LogprobsTest, NoneUnlessAskedFor) {
  EXPECT_TRUE(
      Post("/v1/completions", R"({"prompt":"x"})").json()["choices"][0]["logprobs"].is_null());
  const json only = Post("/v1/completions", R"({"prompt":"x","logprobs":0})").json();
  EXPECT_EQ(only["choices"][0]["logprobs"]["token_logprobs"].size(), answer_.size());
  EXPECT_EQ(only["choices"][0]["logprobs"]["top_logprobs"][0].size(), 1u);  // the token itself
}

TEST_F(LogprobsTest, AStopStringCutsThemWithItsTokens) {
  const json body =
      Post("/v1/completions", json{{"prompt", kPrompt}, {"logprobs", 0}, {"stop", "京"}}.dump())
          .json();
  EXPECT_EQ(body["choices"][0]["text"], "größe 東");
  EXPECT_EQ(body["choices"][0]["logprobs"]["tokens"].size(), body["usage"]["completion_tokens"]);
  EXPECT_LT(body["usage"]["completion_tokens"], answer_.size());
}

TEST_F(LogprobsTest, EchoBeginsWithThePrompt) {
  for (const json& prompt : {json(kPrompt), json(prompt_)}) {
    for (const bool stream : {false, true}) {
      const HttpResponse response = Post("/v1/completions", json{{"prompt", prompt},
                                                                 {"echo", true},
                                                                 {"logprobs", 1},
                                                                 {"max_tokens", 3},
                                                                 {"stream", stream}}
                                                                .dump());
      ASSERT_EQ(response.status, 200) << response.body;
      std::string text;
      json tokens = json::array(), logprobs = json::array(), offsets = json::array();
      const auto take = [&](const json& choice) {
        text += choice["text"].get<std::string>();
        if (choice["logprobs"].is_null()) return;
        for (const json& value : choice["logprobs"]["tokens"]) tokens.push_back(value);
        for (const json& value : choice["logprobs"]["token_logprobs"]) logprobs.push_back(value);
        for (const json& value : choice["logprobs"]["text_offset"]) offsets.push_back(value);
      };
      if (stream) {
        for (const std::string& event : response.events()) {
          if (event != "[DONE]") take(json::parse(event)["choices"][0]);
        }
      } else {
        take(response.json()["choices"][0]);
      }
      EXPECT_EQ(text.rfind(kPrompt, 0), 0u) << text;
      EXPECT_GT(text.size(), std::string(kPrompt).size());
      ASSERT_EQ(tokens.size(), prompt_.size() + 3);
      EXPECT_TRUE(logprobs[0].is_null());
      for (size_t i = 1; i < prompt_.size(); ++i) {
        EXPECT_EQ(logprobs[i], ScriptedExecutor::Logprob(prompt_[i], i, 0));
        EXPECT_EQ(tokens[i], Piece(prompt_[i]));
        EXPECT_EQ(offsets[i], Offset(prompt_, i));
      }
      EXPECT_EQ(logprobs[prompt_.size()], Expected(0));
      EXPECT_EQ(offsets[prompt_.size()], std::string(kPrompt).size());
    }
  }
}

TEST_F(LogprobsTest, EchoWithoutLogprobsIsText) {
  const json body =
      Post("/v1/completions", json{{"prompt", kPrompt}, {"echo", true}, {"n", 1}}.dump()).json();
  EXPECT_EQ(body["choices"][0]["text"], std::string(kPrompt) + kScoredAnswer);
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
}

TEST_F(LogprobsTest, PromptLogprobsInVllmsShape) {
  const json body =
      Post("/v1/completions", json{{"prompt", kPrompt}, {"prompt_logprobs", 2}}.dump()).json();
  const json& list = body["choices"][0]["prompt_logprobs"];
  ASSERT_EQ(list.size(), prompt_.size());
  EXPECT_TRUE(list[0].is_null());
  for (size_t i = 1; i < prompt_.size(); ++i) {
    ASSERT_EQ(list[i].size(), 2u) << list[i];
    const json& own = list[i][std::to_string(prompt_[i])];
    EXPECT_EQ(own["logprob"], ScriptedExecutor::Logprob(prompt_[i], i, 0));
    EXPECT_EQ(own["rank"], 1);
    EXPECT_EQ(own["decoded_token"], Piece(prompt_[i]));
  }
  // Without alternatives its rank is not known, and left out.
  const json bare =
      Post("/v1/completions", json{{"prompt", kPrompt}, {"prompt_logprobs", 0}}.dump()).json();
  const json& position = bare["choices"][0]["prompt_logprobs"][1];
  ASSERT_EQ(position.size(), 1u);
  EXPECT_FALSE(position[std::to_string(prompt_[1])].contains("rank")) << position;
  const json chat = Post("/v1/chat/completions",
                         R"({"messages":[{"role":"user","content":"Hi"}],"prompt_logprobs":1})")
                        .json();
  EXPECT_EQ(chat["prompt_logprobs"].size(), chat["usage"]["prompt_tokens"]);
}

TEST_F(LogprobsTest, RanksAreTrueOrLeftOut) {
  // The token 40 comes third at the first place; at the second it is not among the likely ones.
  const std::vector<int32_t> ids = {7, 40, 40};
  const std::vector<TokenLogprobs> scores = {
      {.logprob = -2, .top = {{50, -0.5f}, {51, -1}, {40, -2}, {52, -3}}},
      {.logprob = -9, .top = {{50, -0.5f}, {51, -1}, {52, -2}, {53, -3}}}};
  const auto list = PromptLogprobs(*model_.tokenizer, ids, scores, 2);  // echo had asked for 4
  ASSERT_EQ(list.size(), 3u);
  const auto ranks = [](const OrderedJson& position) {
    std::map<std::string, int> found;
    for (const auto& [id, entry] : position.items()) {
      EXPECT_EQ(entry.size(), entry.contains("rank") ? 3u : 2u) << position;
      EXPECT_FALSE(entry.contains("rank") && entry["rank"].is_null()) << position;
      found[id] = entry.value("rank", 0);
    }
    return found;
  };
  EXPECT_EQ(ranks(list[1]), (std::map<std::string, int>{{"50", 1}, {"51", 2}, {"40", 3}}));
  EXPECT_EQ(ranks(list[2]), (std::map<std::string, int>{{"50", 1}, {"51", 2}, {"40", 0}}));
  EXPECT_EQ(list[1]["40"]["logprob"], -2);
  EXPECT_EQ(list[2]["40"]["logprob"], -9);
}

TEST_F(LogprobsTest, GrpcHasFieldsOfItsOwn) {
  const auto stub = v1::Tessera::NewStub(
      grpc::CreateChannel(addresses_.grpc, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  v1::GenerateRequest request;
  request.set_text(kPrompt);
  request.mutable_sampling()->set_top_logprobs(2);
  request.mutable_sampling()->set_prompt_logprobs(1);
  const auto reader = stub->Generate(&context, request);
  std::vector<v1::GenerateResponse> messages;
  v1::GenerateResponse message;
  while (reader->Read(&message)) messages.push_back(message);
  ASSERT_TRUE(reader->Finish().ok());
  ASSERT_FALSE(messages.empty());
  ASSERT_EQ(static_cast<size_t>(messages[0].prompt_logprobs_size()) + 1, prompt_.size());
  for (size_t i = 1; i < prompt_.size(); ++i) {
    const v1::TokenLogprobs& scored = messages[0].prompt_logprobs(static_cast<int>(i) - 1);
    EXPECT_EQ(scored.token_id(), prompt_[i]);
    EXPECT_EQ(scored.logprob(), ScriptedExecutor::Logprob(prompt_[i], i, 0));
    EXPECT_EQ(scored.top_size(), 1);
  }
  size_t index = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    EXPECT_TRUE(i == 0 || messages[i].prompt_logprobs_size() == 0);
    ASSERT_EQ(messages[i].logprobs_size(), messages[i].token_ids_size());
    for (const v1::TokenLogprobs& scored : messages[i].logprobs()) {
      EXPECT_EQ(scored.token_id(), answer_[index]);
      EXPECT_EQ(scored.logprob(), Expected(index));
      ASSERT_EQ(scored.top_size(), 2);
      EXPECT_EQ(scored.top(0).token_id(), answer_[index]);
      EXPECT_EQ(scored.top(1).logprob(), Expected(index) - 0.125f);
      ++index;
    }
  }
  EXPECT_EQ(index, answer_.size());
}

TEST_F(LogprobsTest, AProbabilityOfZeroIsANumber) {
  ChoiceDelta delta;
  delta.token_ids = {40};
  delta.logprobs = {{.logprob = -std::numeric_limits<float>::infinity(), .top = {}}};
  delta.text_offsets = {0};
  EXPECT_EQ(ChatLogprobs(*model_.tokenizer, delta)["content"][0]["logprob"], kLogprobMin);
}

}  // namespace
}  // namespace tessera::api
