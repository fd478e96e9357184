// The HTTP side of things: bad input, limits, keep-alive, pipelining, deadlines, drain.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "coordinator/api/http/http_server.h"
#include "coordinator/api/http/percent.h"
#include "coordinator/api/http/routes.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class HttpProtocolTest : public ApiFixture {
 protected:
  void ExpectError(const HttpResponse& response, int status, const std::string& code,
                   const std::string& param) {
    EXPECT_EQ(response.status, status) << response.body;
    const json body = response.json();
    ASSERT_TRUE(body.is_object()) << response.body;
    const json& error = body["error"];
    EXPECT_EQ(error["code"], code) << response.body;
    EXPECT_EQ(error["param"], param.empty() ? json() : json(param)) << response.body;
    EXPECT_FALSE(error["message"].get<std::string>().empty());
    EXPECT_FALSE(error["type"].get<std::string>().empty());
    EXPECT_FALSE(response.headers.at("x-request-id").empty());
  }
};

TEST_F(HttpProtocolTest, BadInputTable) {
  struct Case {
    std::string path;
    std::string body;
    int status;
    std::string code;
    std::string param;
  };
  const std::string huge_prompt(200'000, 'a');
  const std::vector<int> many_tokens(600, 5);
  const std::string chat = "/v1/chat/completions";
  const std::string plain = "/v1/completions";
  const std::string hi = R"("messages":[{"role":"user","content":"Hi"}])";
  for (const Case& bad : std::vector<Case>{
           {plain, "", 400, "invalid_json", ""},
           {plain, "{\"prompt\": ", 400, "invalid_json", ""},
           {plain, "[]", 400, "invalid_json", ""},
           {plain, "{\"prompt\":\"\xff\xfe\"}", 400, "invalid_json", ""},
           {plain, R"({"prompt":"a","prompt":"b"})", 400, "invalid_json", ""},
           {plain, std::string(100'000, '['), 400, "invalid_json", ""},
           {plain, R"({"prompt":""})", 400, "invalid_value", "prompt"},
           {plain, R"({"prompt":[]})", 400, "invalid_value", "prompt"},
           {plain, R"({})", 400, "invalid_value", "prompt"},
           {plain, R"({"prompt":[1,99999999]})", 400, "invalid_value", "prompt"},
           {plain, json{{"prompt", many_tokens}}.dump(), 400, "context_length_exceeded", "prompt"},
           {plain, json{{"prompt", huge_prompt}}.dump(), 400, "context_length_exceeded", "prompt"},
           {plain, R"({"prompt":"x","max_tokens":-1})", 400, "invalid_value", "max_tokens"},
           {plain, R"({"prompt":"x","max_tokens":0})", 400, "invalid_value", "max_tokens"},
           {plain, R"({"prompt":"x","max_tokens":4000000000})", 400, "context_length_exceeded",
            "max_tokens"},
           {plain, R"({"prompt":"x","max_tokens":99999999999999999999})", 400, "invalid_value",
            "max_tokens"},
           {plain, R"({"prompt":"x","max_tokens":18446744073709551615})", 400, "invalid_value",
            "max_tokens"},
           {plain, R"({"prompt":"x","temperature":-1})", 400, "invalid_value", "temperature"},
           {plain, R"({"prompt":"x","temperature":1e300})", 400, "invalid_value", "temperature"},
           {plain, R"({"prompt":"x","temperature":1e999})", 400, "invalid_json", ""},
           {plain, R"({"prompt":"x","top_p":0})", 400, "invalid_value", "top_p"},
           {plain, R"({"prompt":"x","top_k":-7})", 400, "invalid_value", "top_k"},
           {plain, R"({"prompt":"x","n":0})", 400, "invalid_value", "n"},
           {plain, R"({"prompt":"x","n":129})", 400, "invalid_value", "n"},
           {plain, R"({"prompt":"x","n":3,"best_of":2})", 400, "invalid_value", "best_of"},
           {plain, R"({"prompt":"x","logprobs":21})", 400, "invalid_value", "logprobs"},
           {plain, R"({"prompt":"x","logprobs":true})", 400, "invalid_type", "logprobs"},
           {plain, R"({"prompt":"x","min_p":1})", 400, "invalid_value", "min_p"},
           {plain, R"({"prompt":"x","presence_penalty":-3})", 400, "invalid_value",
            "presence_penalty"},
           {plain, R"({"prompt":"x","logit_bias":{"5":101}})", 400, "invalid_value", "logit_bias"},
           {plain, R"({"prompt":"x","bad_words":["several words"]})", 400, "invalid_value",
            "bad_words"},
           {plain, R"({"prompt":"x","min_tokens":9,"max_tokens":8})", 400, "invalid_value",
            "min_tokens"},
           {plain, R"({"prompt":"x","priority":101})", 400, "invalid_value", "priority"},
           {plain, R"({"prompt":"x","suffix":"y"})", 400, "unsupported_parameter", "suffix"},
           {plain, R"({"prompt":"x","model":"gpt-5"})", 404, "model_not_found", "model"},
           {plain, R"({"prompt":"x","stop":["1","2","3","4","5","6","7","8","9","10","11","12",
             "13","14","15","16","17"]})",
            400, "invalid_value", "stop"},
           {chat, absl::StrCat("{", hi, R"(,"temperature":"warm"})"), 400, "invalid_type",
            "temperature"},
           {chat, R"({"messages":[]})", 400, "invalid_value", "messages"},
           {chat, R"({"messages":[{"role":"god","content":"x"}]})", 400, "invalid_value",
            "messages[0].role"},
           {chat, absl::StrCat("{", hi, R"(,"tools":[{}]})"), 400, "unsupported_parameter",
            "tools"},
           {"/tokenize", R"({"prompt":5})", 400, "invalid_type", "prompt"},
           {"/tokenize", R"({})", 400, "invalid_value", "prompt"},
           {"/detokenize", R"({})", 400, "invalid_value", "tokens"},
           {"/detokenize", R"({"tokens":[-1]})", 400, "invalid_value", "tokens"},
           {"/detokenize", R"({"tokens":[99999999]})", 400, "invalid_value", "tokens"}}) {
    SCOPED_TRACE(bad.path + " " + bad.body.substr(0, 80));
    ExpectError(Post(bad.path, bad.body), bad.status, bad.code, bad.param);
  }
  EXPECT_EQ(executor_->sampled(), 0u);  // nothing of it reached the engine
}

TEST_F(HttpProtocolTest, APromptThatDoesNotFitSaysBothNumbers) {
  const json error =
      Post("/v1/completions", json{{"prompt", std::vector<int>(600, 5)}}.dump()).json()["error"];
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("600"));
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("512"));
}

TEST_F(HttpProtocolTest, UnknownRoutesAndWrongMethods) {
  ExpectError(Get("/v1/nothing"), 404, "unknown_route", "");
  ExpectError(Get("/nothing"), 404, "unknown_route", "");
  const HttpResponse get = Get("/v1/completions");
  ExpectError(get, 405, "method_not_allowed", "");
  EXPECT_EQ(get.headers.at("allow"), "POST");
  const HttpResponse post = Post("/metrics", "");
  ExpectError(post, 405, "method_not_allowed", "");
  EXPECT_EQ(post.headers.at("allow"), "GET");
  const HttpResponse removed = Fetch(addresses_.http, "DELETE", "/v1/models/demo");
  ExpectError(removed, 405, "method_not_allowed", "");
}

TEST_F(HttpProtocolTest, EveryRouteAnswersItsMethod) {
  for (const Route& route : RouteTable()) {
    std::string path = route.path;
    const std::string id = route.console ? "console.js" : model_.name;
    if (path.find("{id}") != std::string::npos) path.replace(path.find("{id}"), 4, id);
    const HttpResponse response = Fetch(addresses_.http, route.method, path, "{}");
    EXPECT_NE(response.status, 0) << path;
    EXPECT_NE(response.status, 404) << path;
    EXPECT_NE(response.status, 405) << path;
    EXPECT_LT(response.status, 500) << path << response.body;
  }
}

TEST_F(HttpProtocolTest, SmallRoutes) {
  EXPECT_EQ(Get("/livez").status, 200);
  EXPECT_EQ(Get("/version").json()["version"], "0.1.0");
  EXPECT_EQ(Get("/readyz").json()["ready"], true);
  EXPECT_EQ(Get("/readyz?verbose=1").status, 200);
  const json models = Get("/v1/models").json();
  EXPECT_EQ(models["object"], "list");
  ASSERT_EQ(models["data"].size(), 1u);
  EXPECT_EQ(models["data"][0]["id"], "demo");
  EXPECT_EQ(models["data"][0]["object"], "model");
  EXPECT_EQ(models["data"][0]["max_model_len"], 512);
  EXPECT_EQ(models["data"][0]["ready"], true);
  EXPECT_EQ(Get("/v1/models/demo").json(), models["data"][0]);
  EXPECT_EQ(Get("/v1/models/de%6Do").json(), models["data"][0]);
  ExpectError(Get("/v1/models/other"), 404, "model_not_found", "model");
  EXPECT_THAT(Get("/metrics").headers.at("content-type"), HasSubstr("text/plain; version=0.0.4"));
  // Health is judged four times a second, an answer counted when it has gone out.
  for (const char* series : {R"(tessera_model_ready{model_name="demo"} 1)",
                             R"(tessera_http_requests_total{code="200",route="/livez"} 1)"}) {
    EXPECT_TRUE(WaitFor([this, series] {
      return Get("/metrics").body.find(series) != std::string::npos;
    })) << series;
  }
}

TEST_F(HttpProtocolTest, TokenizeThereAndBack) {
  const std::string text = "Hello, <|user|> there 🚀";
  const json tokens =
      Post("/tokenize", json{{"prompt", text}, {"add_special_tokens", false}}.dump()).json();
  EXPECT_EQ(tokens["tokens"].get<std::vector<int32_t>>(), Encode(model_, text));
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  EXPECT_EQ(tokens["max_model_len"], 512);
  EXPECT_EQ(Post("/detokenize", json{{"tokens", tokens["tokens"]}}.dump()).json()["prompt"], text);
}

TEST_F(HttpProtocolTest, RequestIdsAreTakenOverWhenTheyAreSane) {
  EXPECT_EQ(Fetch(addresses_.http, "GET", "/livez", "", "X-Request-Id: abc-1._\r\n")
                .headers.at("x-request-id"),
            "abc-1._");
  for (const std::string& bad : {std::string("a b"), std::string("<x>"), std::string(200, 'a')}) {
    EXPECT_NE(
        Fetch(addresses_.http, "GET", "/livez", "", absl::StrCat("X-Request-Id: ", bad, "\r\n"))
            .headers.at("x-request-id"),
        bad);
  }
}

TEST_F(HttpProtocolTest, KeepAliveAndPipelining) {
  SocketClient client(addresses_.http);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(client.Request("GET", "/livez").status, 200);
  // Three requests in one packet, the first of which takes a while.
  const std::string body = R"({"prompt":"x"})";
  client.Send(absl::StrCat("POST /v1/completions HTTP/1.1\r\nContent-Length: ", body.size(),
                           "\r\n\r\n", body, "GET /livez HTTP/1.1\r\n\r\n",
                           "GET /nothing HTTP/1.1\r\n\r\n"));
  EXPECT_EQ(client.ReadResponse().json()["object"], "text_completion");
  EXPECT_EQ(client.ReadResponse().json()["alive"], true);
  EXPECT_EQ(client.ReadResponse().status, 404);
  // And one whose bytes come one by one.
  for (const char c : std::string("GET /livez HTTP/1.1\r\n\r\n")) client.Send(std::string(1, c));
  EXPECT_EQ(client.ReadResponse().status, 200);
  client.SendRequest("GET", "/livez", "", "Connection: close\r\n");
  EXPECT_EQ(client.ReadResponse().headers.at("connection"), "close");
  EXPECT_TRUE(client.ReadToEnd());
}

TEST_F(HttpProtocolTest, PipelinedBehindAStream) {
  SocketClient client(addresses_.http);
  const std::string body = R"({"prompt":"x","stream":true})";
  client.Send(absl::StrCat("POST /v1/completions HTTP/1.1\r\nContent-Length: ", body.size(),
                           "\r\n\r\n", body));
  client.Send("GET /livez HTTP/1.1\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().events().back(), "[DONE]");
  EXPECT_EQ(client.ReadResponse().json()["alive"], true);
}

TEST_F(HttpProtocolTest, HeadIsGetWithoutTheBody) {
  SocketClient client(addresses_.http);
  const HttpResponse response = client.Request("HEAD", "/livez");
  EXPECT_EQ(response.status, 200);
  EXPECT_NE(response.headers.at("content-length"), "0");
  EXPECT_EQ(client.Request("GET", "/livez").json()["alive"], true);
}

TEST_F(HttpProtocolTest, ATenMegabyteBodyIsRefused) {
  const std::string body = R"({"prompt":")" + std::string(kHttpBodyBytesMax, 'a') + "\"}";
  // All of it sent, whatever comes back meanwhile.
  SocketClient client(addresses_.http);
  ASSERT_TRUE(client.SendRequest("POST", "/v1/completions", body));
  ExpectError(client.ReadResponse(), 413, "request_too_large", "");
  // Without a length, in chunks.
  SocketClient chunked(addresses_.http);
  chunked.Send("POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
  const std::string chunk = absl::StrCat("100000\r\n", std::string(1 << 20, 'a'), "\r\n");
  for (int i = 0; i < 11; ++i) chunked.Send(chunk);
  ExpectError(chunked.ReadResponse(), 413, "request_too_large", "");
  // Just under it is read, and then found too long for the context.
  const std::string fits = R"({"prompt":")" + std::string(kHttpBodyBytesMax - 100, 'a') + "\"}";
  ExpectError(Post("/v1/completions", fits), 400, "context_length_exceeded", "prompt");
}

TEST_F(HttpProtocolTest, HeadersAreBounded) {
  const std::string headers = "X-Big: " + std::string(kHttpHeaderBytesMax, 'a') + "\r\n";
  ExpectError(Fetch(addresses_.http, "GET", "/livez", "", headers), 431, "header_too_large", "");
}

TEST_F(HttpProtocolTest, WhatIsNotHttp) {
  SocketClient client(addresses_.http);
  client.Send("\x16\x03\x01 hello, is this TLS?\r\n\r\n");
  ExpectError(client.ReadResponse(), 400, "invalid_http", "");
  EXPECT_TRUE(client.ReadToEnd());
}

TEST_F(HttpProtocolTest, AHalfClosedClientGetsWhatIsReady) {
  SocketClient client(addresses_.http);
  client.SendRequest("GET", "/livez");
  client.CloseSending();
  EXPECT_EQ(client.ReadResponse().status, 200);
  EXPECT_TRUE(client.ReadToEnd());
}

TEST_F(HttpProtocolTest, ExpectContinue) {
  SocketClient client(addresses_.http);
  const std::string body = R"({"prompt":"x"})";
  client.Send(absl::StrCat(
      "POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: ", body.size(),
      "\r\n\r\n"));
  EXPECT_EQ(client.ReadResponse(/*head=*/true).status, 100);
  client.Send(body);
  EXPECT_EQ(client.ReadResponse().status, 200);
}

TEST_F(HttpProtocolTest, Drain) {
  executor_->SetStepTime(absl::Milliseconds(2));
  AnswerWith("This answer takes its time and is finished all the same.");
  SocketClient open(addresses_.http);
  open.SendRequest("POST", "/v1/completions", R"({"prompt":"x"})");
  ASSERT_TRUE(WaitFor([this] { return Running() == 1; }));
  server_->BeginDrain();
  EXPECT_FALSE(server_->Ready());
  const HttpResponse refused = Post("/v1/completions", R"({"prompt":"x"})");
  ExpectError(refused, 503, "service_unavailable", "");
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  EXPECT_EQ(refused.headers.at("connection"), "close");
  EXPECT_EQ(Get("/readyz").status, 503);
  EXPECT_EQ(Get("/readyz").json()["draining"], true);
  EXPECT_EQ(Get("/livez").status, 200);
  const HttpResponse finished = open.ReadResponse();
  EXPECT_EQ(finished.status, 200);
  EXPECT_EQ(finished.json()["choices"][0]["text"],
            "This answer takes its time and is finished all the same.");
}

class HangTest : public ApiFixture {
 protected:
  void Configure(ApiOptions* options, SchedulerOptions*) override {
    options->progress_deadline = absl::Milliseconds(500);
  }
};

TEST_F(HangTest, RanksThatHangAreNotReady) {
  executor_->Hold(true);
  EXPECT_TRUE(WaitFor([this] { return Get("/readyz").status == 503; }));
  EXPECT_THAT(Get("/readyz").json()["models"][0]["reason"].get<std::string>(),
              HasSubstr("no progress"));
  executor_->Hold(false);
  EXPECT_TRUE(WaitFor([this] { return Get("/readyz").status == 200; }));
}

class SmallLimitsTest : public ApiFixture {
 protected:
  void Configure(ApiOptions* options, SchedulerOptions* scheduler) override {
    options->connections_max = 4;
    options->read_deadline = absl::Milliseconds(200);
    options->idle_deadline = absl::Milliseconds(400);
    options->progress_deadline = absl::Seconds(60);
    scheduler->waiting_max = 1;
    scheduler->rows_max = 1;
  }
};

TEST_F(SmallLimitsTest, AFullQueueSays429) {
  executor_->Hold(true);
  std::vector<std::unique_ptr<SocketClient>> clients;
  for (int i = 0; i < 2; ++i) {
    clients.push_back(std::make_unique<SocketClient>(addresses_.http));
    clients.back()->SendRequest("POST", "/v1/completions", R"({"prompt":"x"})");
    const int64_t wanted = i + 1;
    ASSERT_TRUE(WaitFor([this, wanted] {
      const SchedulerStats stats = engine_->Stats();
      return stats.running + stats.waiting >= wanted;
    }));
  }
  const HttpResponse response = Post("/v1/completions", R"({"prompt":"x"})");
  EXPECT_EQ(response.status, 429) << response.body;
  EXPECT_EQ(response.headers.at("retry-after"), "1");
  EXPECT_EQ(response.json()["error"]["type"], "rate_limit_exceeded");
}

TEST_F(SmallLimitsTest, TooManyConnectionsSay503) {
  std::vector<std::unique_ptr<SocketClient>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<SocketClient>(addresses_.http));
    ASSERT_EQ(clients.back()->Request("GET", "/livez").status, 200);
  }
  SocketClient fifth(addresses_.http);
  const HttpResponse response = fifth.ReadResponse();
  EXPECT_EQ(response.status, 503);
  EXPECT_THAT(response.body, HasSubstr("connections"));
  clients.clear();
  EXPECT_TRUE(WaitFor([this] { return Get("/livez").status == 200; }));
}

TEST_F(SmallLimitsTest, ARequestThatNeverEndsTimesOut) {
  SocketClient client(addresses_.http);
  client.Send("POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
  const HttpResponse response = client.ReadResponse();
  EXPECT_EQ(response.status, 408);
  EXPECT_EQ(response.json()["error"]["code"], "request_timeout");
  EXPECT_TRUE(client.ReadToEnd());
}

TEST_F(SmallLimitsTest, IdleConnectionsAreClosed) {
  SocketClient client(addresses_.http);
  EXPECT_EQ(client.Request("GET", "/livez").status, 200);
  EXPECT_TRUE(client.ReadToEnd());
}

TEST(PercentTest, DecodesWhatIsAnEscape) {
  EXPECT_EQ(PercentDecode("/a%2Fb%20c"), "/a/b c");
  EXPECT_EQ(PercentDecode("%"), "%");
  EXPECT_EQ(PercentDecode("%4"), "%4");
  EXPECT_EQ(PercentDecode("%zz%41"), "%zzA");
}

}  // namespace
}  // namespace tessera::api
