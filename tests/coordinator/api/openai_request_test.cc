// OpenAI bodies as values: what is served, what is reserved, what is wrong and where.

#include "coordinator/api/http/openai_request.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

constexpr char kMessages[] = R"("messages":[{"role":"user","content":"Hi"}])";

absl::StatusOr<ChatCompletionRequest> Chat(const std::string& more) {
  return ParseChatCompletion(absl::StrCat("{", kMessages, more.empty() ? "" : ",", more, "}"));
}

TEST(OpenAiRequestTest, TakesEveryServedParameter) {
  const auto request = Chat(
      R"("model":"m","temperature":0.5,"top_p":0.9,"top_k":40,"seed":7,"max_completion_tokens":12,
         "stop":["a","b"],"stop_token_ids":[3],"ignore_eos":true,"include_stop_str_in_output":true,
         "stream":true,"stream_options":{"include_usage":true}, "a_field_of_next_year":{"x":[1]})");
  ASSERT_TRUE(request.ok()) << request.status();
  const GenerateParams& params = request->common.params;
  EXPECT_EQ(request->common.model, "m");
  EXPECT_EQ(params.temperature, 0.5);
  EXPECT_EQ(params.top_p, 0.9);
  EXPECT_EQ(params.top_k, 40);
  EXPECT_EQ(params.seed, 7u);
  EXPECT_EQ(params.max_tokens, 12);
  EXPECT_STREQ(params.max_tokens_name, "max_completion_tokens");
  EXPECT_EQ(params.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(params.stop_token_ids, std::vector<int32_t>{3});
  EXPECT_TRUE(params.ignore_eos);
  EXPECT_TRUE(params.include_stop);
  EXPECT_TRUE(request->common.stream);
  EXPECT_TRUE(request->common.include_usage);
}

TEST(OpenAiRequestTest, TakesEveryParameterOfSampling) {
  const auto request = Chat(
      R"("n":3,"min_p":0.25,"presence_penalty":1.5,"frequency_penalty":-1,"repetition_penalty":1.25,
         "logit_bias":{"7":-100,"9":2.5},"allowed_token_ids":[1,2],"banned_token_ids":[4],
         "bad_words":["x"],"min_tokens":2,"logprobs":true,"top_logprobs":4,"prompt_logprobs":3,
         "include_stop":true,"priority":-8)");
  ASSERT_TRUE(request.ok()) << request.status();
  const GenerateParams& params = request->common.params;
  EXPECT_EQ(params.n, 3);
  EXPECT_EQ(params.min_p, 0.25);
  EXPECT_EQ(params.presence_penalty, 1.5);
  EXPECT_EQ(params.frequency_penalty, -1);
  EXPECT_EQ(params.repetition_penalty, 1.25);
  EXPECT_EQ(params.logit_bias, (std::vector<std::pair<int32_t, double>>{{7, -100}, {9, 2.5}}));
  EXPECT_EQ(params.allowed_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(params.banned_token_ids, std::vector<int32_t>{4});
  EXPECT_EQ(params.bad_words, std::vector<std::string>{"x"});
  EXPECT_EQ(params.min_tokens, 2);
  EXPECT_EQ(params.top_logprobs, 4);
  EXPECT_EQ(params.prompt_logprobs, 3);
  EXPECT_TRUE(params.include_stop);
  EXPECT_EQ(params.priority, -8);
}

TEST(OpenAiRequestTest, CompletionsHaveTheirOwnLogprobsBestOfAndEcho) {
  const auto request =
      ParseCompletion(R"({"prompt":"x","n":2,"best_of":5,"logprobs":3,"echo":true})");
  ASSERT_TRUE(request.ok()) << request.status();
  const GenerateParams& params = request->common.params;
  EXPECT_EQ(params.choices(), 5);
  EXPECT_EQ(params.answers(), 2);
  EXPECT_EQ(params.top_logprobs, 3);
  EXPECT_STREQ(params.top_logprobs_name, "logprobs");
  EXPECT_TRUE(request->echo && params.score_prompt);
  // Not scored at all, and scored without alternatives, differ.
  EXPECT_EQ(ParseCompletion(R"({"prompt":"x"})")->common.params.top_logprobs, std::nullopt);
  EXPECT_EQ(ParseCompletion(R"({"prompt":"x","logprobs":0})")->common.params.top_logprobs, 0);
}

TEST(OpenAiRequestTest, WhatCannotBeStreamedSaysSo) {
  EXPECT_EQ(ParamOf(ParseCompletion(R"({"prompt":"x","best_of":2,"stream":true})").status()),
            "best_of");
  EXPECT_TRUE(ParseCompletion(R"({"prompt":"x","best_of":2,"n":2,"stream":true})").ok());
  EXPECT_EQ(ParamOf(Chat(R"("prompt_logprobs":0,"stream":true)").status()), "prompt_logprobs");
}

TEST(OpenAiRequestTest, NeutralValuesOfReservedParametersAreTaken) {
  const auto request = Chat(R"("best_of":1,"logprobs":false,"top_logprobs":0,"logit_bias":{},
              "response_format":{"type":"text"},"tools":[],"tool_choice":"none","echo":false,
              "suffix":null,"user":"me","modalities":["text"],"parallel_tool_calls":true)");
  EXPECT_TRUE(request.ok()) << request.status();
}

TEST(OpenAiRequestTest, ReservedParametersAreRefusedByName) {
  for (const std::string pair :
       {R"("best_of":3)", R"("response_format":{"type":"json_object"})",
        R"("response_format":"json")", R"("tools":[{"type":"function"}])",
        R"("tool_choice":"required")", R"("functions":[{}])", R"("echo":true)", R"("suffix":"x")",
        R"("guided_json":{})", R"("audio":{})", R"("use_beam_search":true)"}) {
    const absl::Status status = Chat(pair).status();
    const std::string name = pair.substr(1, pair.find('"', 1) - 1);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << pair << " " << status;
    EXPECT_EQ(ParamOf(status), name);
    EXPECT_EQ(CodeOf(status), "unsupported_parameter");
    EXPECT_EQ(HttpOf(status), 400);
  }
}

TEST(OpenAiRequestTest, WrongTypesNameTheParameter) {
  struct Case {
    std::string pair;
    std::string param;
  };
  for (const Case& bad :
       std::vector<Case>{{R"("model":5)", "model"},
                         {R"("temperature":"hot")", "temperature"},
                         {R"("top_p":[])", "top_p"},
                         {R"("top_k":1.5)", "top_k"},
                         {R"("seed":"x")", "seed"},
                         {R"("max_tokens":"many")", "max_tokens"},
                         {R"("max_tokens":1e3)", "max_tokens"},
                         {R"("max_completion_tokens":{})", "max_completion_tokens"},
                         {R"("n":"two")", "n"},
                         {R"("n":1.5)", "n"},
                         {R"("min_p":"x")", "min_p"},
                         {R"("presence_penalty":[])", "presence_penalty"},
                         {R"("frequency_penalty":true)", "frequency_penalty"},
                         {R"("repetition_penalty":{})", "repetition_penalty"},
                         {R"("logit_bias":[5])", "logit_bias"},
                         {R"("logit_bias":{"five":1})", "logit_bias"},
                         {R"("logit_bias":{"5":"x"})", "logit_bias"},
                         {R"("allowed_token_ids":"a")", "allowed_token_ids"},
                         {R"("banned_token_ids":[-1])", "banned_token_ids"},
                         {R"("bad_words":[5])", "bad_words"},
                         {R"("min_tokens":"x")", "min_tokens"},
                         {R"("logprobs":5)", "logprobs"},
                         {R"("logprobs":true,"top_logprobs":true)", "top_logprobs"},
                         {R"("top_logprobs":5)", "top_logprobs"},
                         {R"("prompt_logprobs":true)", "prompt_logprobs"},
                         {R"("priority":"high")", "priority"},
                         {R"("stop":5)", "stop"},
                         {R"("stop":["a",5])", "stop"},
                         {R"("stop_token_ids":"a")", "stop_token_ids"},
                         {R"("stream":"yes")", "stream"},
                         {R"("stream":1)", "stream"},
                         {R"("ignore_eos":0)", "ignore_eos"},
                         {R"("stream":true,"stream_options":[])", "stream_options"},
                         {R"("stream":true,"stream_options":{"include_usage":1})",
                          "stream_options.include_usage"},
                         {R"("stream_options":{"include_usage":true})", "stream_options"},
                         {R"("max_tokens":3,"max_completion_tokens":4)", "max_tokens"}}) {
    const absl::Status status = Chat(bad.pair).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.pair << " " << status;
    EXPECT_EQ(ParamOf(status), bad.param) << bad.pair;
  }
}

TEST(OpenAiRequestTest, MessagesAreChecked) {
  struct Case {
    std::string messages;
    std::string param;
  };
  for (const Case& bad : std::vector<Case>{
           {R"("hello")", "messages"},
           {"[]", "messages"},
           {"[5]", "messages[0]"},
           {R"([{"content":"x"}])", "messages[0].role"},
           {R"([{"role":"user"}])", "messages[0].content"},
           {R"([{"role":"user","content":null}])", "messages[0].content"},
           {R"([{"role":7,"content":"x"}])", "messages[0].role"},
           {R"([{"role":"user","content":"x"},{"role":"user","content":7}])",
            "messages[1].content"},
           {R"([{"role":"user","content":[7]}])", "messages[0].content[0]"},
           {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0]"},
           {R"([{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url"}]}])",
            "messages[0].content[1]"},
           {R"([{"role":"assistant","content":"x","tool_calls":[{}]}])",
            "messages[0].tool_calls"}}) {
    const absl::Status status =
        ParseChatCompletion(absl::StrCat("{\"messages\":", bad.messages, "}")).status();
    EXPECT_EQ(ParamOf(status), bad.param) << bad.messages << " " << status;
  }
  EXPECT_EQ(ParamOf(ParseChatCompletion("{}").status()), "messages");
}

TEST(OpenAiRequestTest, ImagePartsAreRefusedByTheirType) {
  const absl::Status status =
      ParseChatCompletion(
          R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]})")
          .status();
  EXPECT_EQ(CodeOf(status), "unsupported_parameter");
  EXPECT_NE(std::string(status.message()).find("image_url"), std::string::npos);
}

TEST(OpenAiRequestTest, TextPartsAreJoined) {
  const auto request = ParseChatCompletion(
      R"({"messages":[{"role":"user","content":[
          {"type":"text","text":"a"},{"type":"text","text":"b"}]}]})");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->messages[0].content, "ab");
}

TEST(OpenAiRequestTest, PromptsInEveryForm) {
  const auto text = ParseCompletion(R"({"prompt":"Hi"})");
  const auto one = ParseCompletion(R"({"prompt":["Hi"]})");
  const auto ids = ParseCompletion(R"({"prompt":[1,2]})");
  const auto nested = ParseCompletion(R"({"prompt":[[1,2]]})");
  ASSERT_TRUE(text.ok() && one.ok() && ids.ok() && nested.ok());
  EXPECT_EQ(std::get<std::string>(text->prompt), "Hi");
  EXPECT_EQ(std::get<std::string>(one->prompt), "Hi");
  EXPECT_EQ(std::get<std::vector<int32_t>>(ids->prompt), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(std::get<std::vector<int32_t>>(nested->prompt), (std::vector<int32_t>{1, 2}));
  const absl::Status several = ParseCompletion(R"({"prompt":["a","b"]})").status();
  EXPECT_EQ(CodeOf(several), "unsupported_parameter");
  EXPECT_NE(std::string(several.message()).find("the limit is 1"), std::string::npos) << several;
  for (const char* bad : {R"({})", R"({"prompt":5})", R"({"prompt":{}})", R"({"prompt":[1,"a"]})",
                          R"({"prompt":[1.5]})", R"({"prompt":[-1]})", R"({"prompt":null})"}) {
    EXPECT_EQ(ParamOf(ParseCompletion(bad).status()), "prompt") << bad;
  }
}

}  // namespace
}  // namespace tessera::api
