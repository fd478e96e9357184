// Answers over HTTP: whole and streamed, stop strings, usage, clients that go away or read slowly.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kScriptedAnswer[] = "The scheduler admits a request when its blocks are free.";

class HttpGenerationTest : public ApiFixture {
 protected:
  void SetUp() override {
    ApiFixture::SetUp();
    AnswerWith(kScriptedAnswer);
  }
  static std::string ChatBody(const std::string& more = "") {
    return absl::StrCat(R"({"model":"demo","messages":[{"role":"user","content":"Why?"}])", more,
                        "}");
  }
  static std::string Joined(const HttpResponse& response, bool chat) {
    std::string text;
    for (const std::string& event : response.events()) {
      const json chunk = json::parse(event, nullptr, false);
      if (!chunk.is_object() || chunk["choices"].empty()) continue;
      const json& choice = chunk["choices"][0];
      text += chat ? choice["delta"].value("content", "") : choice.value("text", "");
    }
    return text;
  }
  size_t AnswerTokens() const {
    return Encode(model_, kScriptedAnswer).size() + 1;
  }  // and the end token
};

TEST_F(HttpGenerationTest, WholeChatAnswer) {
  const HttpResponse response = Post("/v1/chat/completions", ChatBody());
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.headers.at("content-type"), "application/json");
  EXPECT_FALSE(response.headers.at("x-request-id").empty());
  const json body = response.json();
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_THAT(body["id"].get<std::string>(), HasSubstr("chatcmpl-"));
  EXPECT_GT(body["created"].get<int64_t>(), 1'600'000'000);
  EXPECT_EQ(body["model"], "demo");
  ASSERT_EQ(body["choices"].size(), 1u);
  EXPECT_EQ(body["choices"][0]["index"], 0);
  EXPECT_EQ(body["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(body["choices"][0]["message"]["content"], kScriptedAnswer);
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  const json& usage = body["usage"];
  const json counted =
      Post("/tokenize", R"({"messages":[{"role":"user","content":"Why?"}]})").json();
  EXPECT_EQ(usage["prompt_tokens"], counted["count"]);
  EXPECT_EQ(usage["completion_tokens"], AnswerTokens());
  EXPECT_EQ(usage["total_tokens"],
            usage["prompt_tokens"].get<size_t>() + usage["completion_tokens"].get<size_t>());
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 0);
}

TEST_F(HttpGenerationTest, StreamedChatAnswer) {
  const HttpResponse response =
      Post("/v1/chat/completions",
           ChatBody(R"(,"stream":true,"stream_options":{"include_usage":true})"));
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_THAT(response.headers.at("content-type"), HasSubstr("text/event-stream"));
  const std::vector<std::string> events = response.events();
  ASSERT_GE(events.size(), 4u) << response.body;
  EXPECT_EQ(events.back(), "[DONE]");
  const json first = json::parse(events.front());
  EXPECT_EQ(first["object"], "chat.completion.chunk");
  EXPECT_EQ(first["choices"][0]["delta"]["role"], "assistant");
  EXPECT_TRUE(first["choices"][0]["finish_reason"].is_null());
  EXPECT_TRUE(first.contains("usage") && first["usage"].is_null());
  const json usage = json::parse(events[events.size() - 2]);
  EXPECT_TRUE(usage["choices"].empty());
  EXPECT_EQ(usage["usage"]["completion_tokens"], AnswerTokens());
  const json last = json::parse(events[events.size() - 3]);
  EXPECT_EQ(last["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(last["choices"][0]["delta"], json::object());
  EXPECT_EQ(Joined(response, true), kScriptedAnswer);
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    EXPECT_EQ(json::parse(events[i])["id"], first["id"]);
  }
}

TEST_F(HttpGenerationTest, TextComesWhileItIsMade) {
  executor_->SetStepTime(absl::Milliseconds(5));
  AnswerForever(" the");
  SocketClient client(addresses_.http);
  client.SendRequest("POST", "/v1/chat/completions", ChatBody(R"(,"stream":true)"));
  ASSERT_TRUE(client.ReadUntil("\"content\":\" the"));
  EXPECT_EQ(Running(), 1);  // far from its end
}

TEST_F(HttpGenerationTest, PlainCompletionsInEveryForm) {
  const std::vector<int32_t> ids = Encode(model_, "What is it?");
  for (const json& prompt : {json("What is it?"), json{"What is it?"}, json(ids)}) {
    json request = {{"prompt", prompt}, {"max_tokens", 4}};
    const HttpResponse response = Post("/v1/completions", request.dump());
    ASSERT_EQ(response.status, 200) << response.body;
    const json body = response.json();
    EXPECT_EQ(body["object"], "text_completion");
    EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
    EXPECT_EQ(body["usage"]["completion_tokens"], 4);
    const std::string text = body["choices"][0]["text"];
    EXPECT_EQ(std::string(kScriptedAnswer).rfind(text, 0), 0u) << text;

    request["stream"] = true;
    const HttpResponse streamed = Post("/v1/completions", request.dump());
    EXPECT_EQ(Joined(streamed, false), text);
    EXPECT_EQ(json::parse(streamed.events().front()).contains("usage"), false);
  }
}

TEST_F(HttpGenerationTest, StopStringAcrossTokens) {
  // In the middle of words, so that several tokens make it.
  for (const bool stream : {false, true}) {
    for (const bool include : {false, true}) {
      json request = {{"prompt", "x"},
                      {"stop", {"never", "mits a req"}},
                      {"stream", stream},
                      {"include_stop_str_in_output", include}};
      if (stream) request["stream_options"]["include_usage"] = true;
      const HttpResponse response = Post("/v1/completions", request.dump());
      ASSERT_EQ(response.status, 200) << response.body;
      const std::string expected = include ? "The scheduler admits a req" : "The scheduler ad";
      json choice, usage;
      if (stream) {
        EXPECT_EQ(Joined(response, false), expected);
        choice = json::parse(response.events()[response.events().size() - 3])["choices"][0];
        usage = json::parse(response.events()[response.events().size() - 2])["usage"];
      } else {
        choice = response.json()["choices"][0];
        EXPECT_EQ(choice["text"], expected);
        usage = response.json()["usage"];
      }
      EXPECT_EQ(choice["finish_reason"], "stop");
      EXPECT_EQ(choice["stop_reason"], "mits a req");
      // Billed up to the token that completed the stop string: the shortest prefix of tokens with
      // it.
      const std::vector<int32_t> ids = Encode(model_, kScriptedAnswer);
      size_t count = 1;
      while (model_.tokenizer->Decode({ids.data(), count}, true)->find("mits a req") ==
             std::string::npos) {
        ++count;
      }
      EXPECT_EQ(usage["completion_tokens"], count);
    }
  }
}

TEST_F(HttpGenerationTest, ABeginningOfAStopStringIsNotLost) {
  const HttpResponse response =
      Post("/v1/completions", R"({"prompt":"x","stream":true,"stop":"free.!"})");
  EXPECT_EQ(Joined(response, false), kScriptedAnswer);
}

TEST_F(HttpGenerationTest, CharactersOfSeveralTokensComeWhole) {
  const std::string answer = "größe 東京 🚀👩‍🚀 ok";
  AnswerWith(answer);
  const HttpResponse response = Post("/v1/completions", R"({"prompt":"x","stream":true})");
  EXPECT_EQ(Joined(response, false), answer);
  for (const std::string& event : response.events()) {
    EXPECT_EQ(event.find("\xEF\xBF\xBD"), std::string::npos) << event;
  }
}

TEST_F(HttpGenerationTest, IgnoreEosAndStopTokens) {
  const int32_t eos = model_.defaults.eos_token_ids.front();
  executor_->SetScript([eos](size_t, size_t, uint32_t) { return eos; });
  const json ignored =
      Post("/v1/completions", R"({"prompt":"x","ignore_eos":true,"max_tokens":5})").json();
  EXPECT_EQ(ignored["usage"]["completion_tokens"], 5);
  EXPECT_EQ(ignored["choices"][0]["finish_reason"], "length");
  const json stopped = Post("/v1/completions", R"({"prompt":"x","max_tokens":5})").json();
  EXPECT_EQ(stopped["usage"]["completion_tokens"], 1);
  EXPECT_EQ(stopped["choices"][0]["text"], "");
  EXPECT_EQ(stopped["choices"][0]["finish_reason"], "stop");

  const std::vector<int32_t> ids = Encode(model_, kScriptedAnswer);
  AnswerWith(kScriptedAnswer);
  const json by_id =
      Post("/v1/completions", json{{"prompt", "x"}, {"stop_token_ids", {ids[2]}}}.dump()).json();
  EXPECT_EQ(by_id["usage"]["completion_tokens"], 3);
  EXPECT_EQ(by_id["choices"][0]["text"], *model_.tokenizer->Decode({ids.data(), 2}, true));
}

TEST_F(HttpGenerationTest, MaxTokensDefaultsToTheRestOfTheContext) {
  AnswerForever(" the");
  const json body = Post("/v1/completions", R"({"prompt":[5,6,7]})").json();
  EXPECT_EQ(body["usage"]["completion_tokens"], model_.context_max - 3);
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
}

TEST_F(HttpGenerationTest, AClientThatGoesAwayCancelsItsRequest) {
  executor_->SetStepTime(absl::Milliseconds(2));
  AnswerForever(" the");
  for (const char* stream : {"true", "false"}) {
    const int64_t before = engine_->Stats().groups[0].blocks_free[0];
    auto client = std::make_unique<SocketClient>(addresses_.http);
    client->SendRequest("POST", "/v1/completions",
                        absl::StrCat(R"({"prompt":"x","stream":)", stream, "}"));
    ASSERT_TRUE(WaitFor([this] { return Running() == 1; }));
    client.reset();
    const uint64_t sampled = executor_->sampled();
    EXPECT_TRUE(WaitFor(
        [&] { return Running() == 0 && engine_->Stats().groups[0].blocks_free[0] == before; }));
    // Within a step or a few, far before its 500 tokens.
    EXPECT_LT(executor_->sampled() - sampled, 100u);
  }
  EXPECT_THAT(metrics_->Expose(), HasSubstr(R"(code="499",route="/v1/completions"} 2)"));
}

TEST_F(HttpGenerationTest, HttpOneZeroStreamsEndWithTheConnection) {
  SocketClient client(addresses_.http);
  const std::string body = R"({"prompt":"x","stream":true})";
  client.Send(absl::StrCat("POST /v1/completions HTTP/1.0\r\nContent-Length: ", body.size(),
                           "\r\n\r\n", body));
  const HttpResponse response = client.ReadResponse();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(Joined(response, false), kScriptedAnswer);
  EXPECT_EQ(response.events().back(), "[DONE]");
}

TEST_F(HttpGenerationTest, AFailureBeforeTheFirstTextHasAStatus) {
  executor_->Hold(true);
  SocketClient client(addresses_.http);
  client.SendRequest("POST", "/v1/completions", R"({"prompt":"x","stream":true})");
  ASSERT_TRUE(WaitFor([this] { return Running() == 1; }));
  engine_->Stop();
  const HttpResponse response = client.ReadResponse();
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.headers.at("retry-after"), "1");
  EXPECT_EQ(response.json()["error"]["type"], "service_unavailable");
}

TEST_F(HttpGenerationTest, AFailureInTheMiddleIsAnEvent) {
  executor_->SetStepTime(absl::Milliseconds(2));
  AnswerForever(" the");
  SocketClient client(addresses_.http);
  client.SendRequest("POST", "/v1/completions", R"({"prompt":"x","stream":true})");
  ASSERT_TRUE(client.ReadUntil("\" the"));
  engine_->Stop();
  const HttpResponse response = client.ReadResponse();
  ASSERT_FALSE(response.events().empty());
  const json last = json::parse(response.events().back());
  EXPECT_EQ(last["error"]["code"], "service_unavailable");
}

TEST_F(HttpGenerationTest, ManyConnectionsAtOnce) {
  constexpr int kClients = 64;
  std::vector<std::unique_ptr<SocketClient>> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<SocketClient>(addresses_.http));
    clients.back()->SendRequest(
        "POST", "/v1/completions",
        absl::StrCat(R"({"prompt":"number )", i, R"(","stream":)", i % 2 ? "true" : "false", "}"));
  }
  for (int i = 0; i < kClients; ++i) {
    const HttpResponse response = clients[i]->ReadResponse();
    ASSERT_EQ(response.status, 200);
    EXPECT_EQ(
        i % 2 ? Joined(response, false) : response.json()["choices"][0]["text"].get<std::string>(),
        kScriptedAnswer);
  }
  EXPECT_TRUE(WaitFor([this] { return Running() == 0; }));
}

class SlowReaderTest : public ApiFixture {
 protected:
  void Configure(ApiOptions* options, SchedulerOptions*) override {
    options->write_deadline = absl::Milliseconds(300);
  }
};

TEST_F(SlowReaderTest, IsCutOffAtTheWriteDeadline) {
  // An answer far larger than every buffer between the two ends: metrics, read by nobody.
  for (int i = 0; i < 60; ++i)
    metrics_->CountHttp(absl::StrCat("/", std::string(40'000, 'x'), i), 200);
  const absl::Time start = absl::Now();
  SocketClient client(addresses_.http);
  client.ShrinkReceiveBuffer();
  for (int i = 0; i < 8; ++i) client.SendRequest("GET", "/metrics");
  ASSERT_TRUE(client.ReadUntil("200 OK"));
  EXPECT_TRUE(WaitFor([this] { return metrics_->http_connections().Value() == 0; }));
  EXPECT_LT(absl::Now() - start, absl::Seconds(8));
}

}  // namespace
}  // namespace tessera::api
