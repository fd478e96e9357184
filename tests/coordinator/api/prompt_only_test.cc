// Scoring a prompt: `echo` with `max_tokens` 0, whole and streamed. The engine draws a token all
// the same; no answer shows it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;

constexpr char kScoredPrompt[] = "Why is it so?";

class PromptOnlyTest : public ApiFixture {
 protected:
  void SetUp() override {
    ApiFixture::SetUp();
    prompt_ = Post("/tokenize", json{{"prompt", kScoredPrompt}}.dump())
                  .json()["tokens"]
                  .get<std::vector<int32_t>>();
  }
  static json Body(const json& more) {
    json body = {{"prompt", kScoredPrompt}, {"echo", true}, {"max_tokens", 0}};
    body.update(more);
    return body;
  }
  void ExpectPromptScores(const json& logprobs) {
    ASSERT_EQ(logprobs["tokens"].size(), prompt_.size()) << logprobs;
    ASSERT_EQ(logprobs["token_logprobs"].size(), prompt_.size());
    ASSERT_EQ(logprobs["top_logprobs"].size(), prompt_.size());
    ASSERT_EQ(logprobs["text_offset"].size(), prompt_.size());
    EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
    for (size_t i = 1; i < prompt_.size(); ++i) {
      EXPECT_EQ(logprobs["token_logprobs"][i], ScriptedExecutor::Logprob(prompt_[i], i, 0));
      EXPECT_FALSE(logprobs["top_logprobs"][i].empty());
    }
  }
  void ExpectUsage(const json& usage) {
    EXPECT_EQ(usage["prompt_tokens"], prompt_.size());
    EXPECT_EQ(usage["completion_tokens"], 0);
    EXPECT_EQ(usage["total_tokens"], prompt_.size());
  }

  std::vector<int32_t> prompt_;
};

TEST_F(PromptOnlyTest, WholeHasThePromptAndItsScoresAlone) {
  // Whatever is drawn: a word, the end token, what completes a stop string.
  for (const char* drawn : {"Hello", "", "stop"}) {
    AnswerWith(drawn);
    const HttpResponse response =
        Post("/v1/completions", Body({{"logprobs", 2}, {"stop", "stop"}}).dump());
    ASSERT_EQ(response.status, 200) << response.body;
    const json body = response.json();
    ASSERT_EQ(body["choices"].size(), 1u);
    const json& choice = body["choices"][0];
    EXPECT_EQ(choice["text"], kScoredPrompt) << drawn;
    EXPECT_EQ(choice["finish_reason"], "length") << drawn;
    EXPECT_FALSE(choice.contains("stop_reason")) << choice;
    ExpectPromptScores(choice["logprobs"]);
    ExpectUsage(body["usage"]);
  }
}

TEST_F(PromptOnlyTest, StreamsToo) {
  for (const char* drawn : {"Hello", ""}) {
    AnswerWith(drawn);
    const HttpResponse response = Post(
        "/v1/completions",
        Body({{"logprobs", 0}, {"stream", true}, {"stream_options", {{"include_usage", true}}}})
            .dump());
    ASSERT_EQ(response.status, 200) << response.body;
    const std::vector<std::string> events = response.events();
    ASSERT_EQ(events.size(), 4u) << response.body;  // the prompt, its end, usage
    const json first = json::parse(events[0])["choices"][0];
    EXPECT_EQ(first["text"], kScoredPrompt);
    EXPECT_TRUE(first["finish_reason"].is_null());
    ExpectPromptScores(first["logprobs"]);
    const json last = json::parse(events[1])["choices"][0];
    EXPECT_EQ(last["text"], "");
    EXPECT_EQ(last["finish_reason"], "length");
    ExpectUsage(json::parse(events[2])["usage"]);
    EXPECT_EQ(events[3], "[DONE]");
  }
}

TEST_F(PromptOnlyTest, InEveryForm) {
  const HttpResponse ids = Post(
      "/v1/completions",
      Body({{"prompt", prompt_}, {"max_completion_tokens", 0}, {"max_tokens", nullptr}}).dump());
  EXPECT_EQ(ids.json()["choices"][0]["text"], kScoredPrompt) << ids.body;
  EXPECT_TRUE(ids.json()["choices"][0]["logprobs"].is_null());
  const json both = Post("/v1/completions", Body({{"prompt_logprobs", 1}, {"n", 2}}).dump()).json();
  ASSERT_EQ(both["choices"].size(), 2u) << both;
  for (const json& choice : both["choices"]) {
    EXPECT_EQ(choice["text"], kScoredPrompt);
    EXPECT_EQ(choice["prompt_logprobs"].size(), prompt_.size());
  }
  ExpectUsage(both["usage"]);
}

TEST_F(PromptOnlyTest, WithoutEchoItIsRefused) {
  for (const json& more : {json{{"echo", false}}, json{{"echo", nullptr}}}) {
    const HttpResponse response = Post("/v1/completions", Body(more).dump());
    EXPECT_EQ(response.status, 400) << response.body;
    EXPECT_EQ(response.json()["error"]["param"], "max_tokens");
  }
  const HttpResponse chat = Post("/v1/chat/completions",
                                 R"({"messages":[{"role":"user","content":"Hi"}],"max_tokens":0})");
  EXPECT_EQ(chat.status, 400) << chat.body;
  EXPECT_EQ(executor_->sampled(), 0u);
}

}  // namespace
}  // namespace tessera::api
