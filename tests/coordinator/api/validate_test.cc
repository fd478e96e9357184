// Ranges of parameters, and the request they become.

#include "coordinator/api/validate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "coordinator/api/random_source.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

ServedModel SmallModel() {
  ServedModel model;
  model.name = std::string("small");
  model.index = 3;
  model.spec.vocab_size = 100;
  model.context_max = 50;
  model.defaults.eos_token_ids = {9, 2};
  model.defaults.temperature = 0.6f;
  model.defaults.top_k = 20;
  model.defaults.top_p = 0.95f;
  model.defaults.min_p = 0.05f;
  model.defaults.repetition_penalty = 1.1f;
  model.defaults.max_new_tokens = 30;
  return model;
}

TEST(ValidateTest, RangesNameTheParameter) {
  struct Case {
    std::string param;
    std::function<void(GenerateParams&)> set;
  };
  const double nan = std::nan("");
  const double inf = std::numeric_limits<double>::infinity();
  for (const Case& bad : std::vector<Case>{
           {"temperature", [](auto& p) { p.temperature = -0.1; }},
           {"temperature", [](auto& p) { p.temperature = 2.1; }},
           {"temperature", [&](auto& p) { p.temperature = nan; }},
           {"temperature", [&](auto& p) { p.temperature = inf; }},
           {"top_p", [](auto& p) { p.top_p = 0; }},
           {"top_p", [](auto& p) { p.top_p = 1.01; }},
           {"top_p", [&](auto& p) { p.top_p = nan; }},
           {"top_k", [](auto& p) { p.top_k = -2; }},
           {"top_k", [](auto& p) { p.top_k = 101; }},
           {"max_tokens", [](auto& p) { p.max_tokens = 0; }},
           {"max_tokens", [](auto& p) { p.max_tokens = -5; }},
           {"n", [](auto& p) { p.n = 0; }},
           {"n", [](auto& p) { p.n = kChoicesMax + 1; }},
           {"best_of", [](auto& p) { p.n = 3, p.best_of = 2; }},
           {"best_of", [](auto& p) { p.best_of = kChoicesMax + 1; }},
           {"min_p", [](auto& p) { p.min_p = -0.1; }},
           {"min_p", [](auto& p) { p.min_p = 1; }},
           {"min_p", [](auto& p) { p.min_p = 0.999999999; }},  // 1 as a float
           {"min_p", [&](auto& p) { p.min_p = nan; }},
           {"top_p", [](auto& p) { p.top_p = 1e-60; }},  // 0 as a float
           {"presence_penalty", [](auto& p) { p.presence_penalty = 2.1; }},
           {"presence_penalty", [&](auto& p) { p.presence_penalty = nan; }},
           {"frequency_penalty", [](auto& p) { p.frequency_penalty = -2.1; }},
           {"repetition_penalty", [](auto& p) { p.repetition_penalty = 0; }},
           {"repetition_penalty", [](auto& p) { p.repetition_penalty = 10.1; }},
           {"logit_bias", [](auto& p) { p.logit_bias = {{5, 100.5}}; }},
           {"logit_bias", [&](auto& p) { p.logit_bias = {{5, nan}}; }},
           {"logit_bias", [](auto& p) { p.logit_bias = {{100, 1}}; }},
           {"logit_bias", [](auto& p) { p.logit_bias = {{5, 1}, {5, 2}}; }},
           {"logit_bias", [](auto& p) { p.logit_bias.assign(301, {5, 1}); }},
           {"allowed_token_ids", [](auto& p) { p.allowed_token_ids = {100}; }},
           {"allowed_token_ids", [](auto& p) { p.allowed_token_ids.assign(kTokenListMax + 1, 1); }},
           {"banned_token_ids", [](auto& p) { p.banned_token_ids = {-1}; }},
           {"bad_words", [](auto& p) { p.bad_words.assign(257, "x"); }},
           {"bad_words", [](auto& p) { p.bad_words = {""}; }},
           {"bad_words", [](auto& p) { p.bad_words = {std::string(257, 'x')}; }},
           {"min_tokens", [](auto& p) { p.min_tokens = -1; }},
           {"min_tokens", [](auto& p) { p.min_tokens = 6, p.max_tokens = 5; }},
           {"top_logprobs", [](auto& p) { p.top_logprobs = 21; }},
           {"top_logprobs", [](auto& p) { p.top_logprobs = -1; }},
           {"prompt_logprobs", [](auto& p) { p.prompt_logprobs = 21; }},
           {"priority", [](auto& p) { p.priority = 101; }},
           {"priority", [](auto& p) { p.priority = -101; }},
           {"stop", [](auto& p) { p.stop.assign(17, "x"); }},
           {"stop", [](auto& p) { p.stop = {""}; }},
           {"stop", [](auto& p) { p.stop = {std::string(1025, 'x')}; }},
           {"stop_token_ids", [](auto& p) { p.stop_token_ids = {100}; }},
           {"stop_token_ids", [](auto& p) { p.stop_token_ids = {-1}; }},
           {"stop_token_ids", [](auto& p) { p.stop_token_ids.assign(65, 1); }}}) {
    GenerateParams params;
    bad.set(params);
    const absl::Status status = ValidateParams(params, SmallModel(), Caller());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.param;
    EXPECT_EQ(ParamOf(status), bad.param) << status;
  }
  GenerateParams edges;
  edges.temperature = 2;
  edges.top_p = 1;
  edges.top_k = 100;
  edges.stop.assign(16, "x");
  EXPECT_TRUE(ValidateParams(edges, SmallModel(), Caller()).ok());
}

TEST(ValidateTest, UnsetParametersComeFromTheModel) {
  const auto request =
      MakeRequest(SmallModel(), {}, Caller(), {.ids = {1, 2, 3}},
                  {.id = 5, .public_id = "x-1", .arrival = absl::UnixEpoch(), .drawn_seed = 77});
  ASSERT_TRUE(request.ok()) << request.status();
  const SamplingParams& sampling = (*request)->sampling;
  EXPECT_EQ((*request)->id, 5u);
  EXPECT_EQ((*request)->model, 3u);
  EXPECT_FLOAT_EQ(sampling.temperature, 0.6f);
  EXPECT_EQ(sampling.top_k, 20u);
  EXPECT_FLOAT_EQ(sampling.top_p, 0.95f);
  EXPECT_EQ(sampling.seed, 77u);
  EXPECT_FLOAT_EQ(sampling.min_p, 0.05f);
  EXPECT_FLOAT_EQ(sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(sampling.max_tokens, 30u);
  EXPECT_EQ(sampling.stop_token_ids, (std::vector<int32_t>{2, 9}));
}

TEST(ValidateTest, MaxTokensThatNobodySays) {
  ServedModel model = SmallModel();
  GenerateParams params;
  const auto max_tokens = [&](size_t prompt) {
    const auto request =
        MakeRequest(model, params, Caller(), {.ids = std::vector<int32_t>(prompt, 1)}, {});
    EXPECT_TRUE(request.ok()) << request.status();
    return (*request)->sampling.max_tokens;
  };
  EXPECT_EQ(max_tokens(3), 30u);   // the model's max_new_tokens
  EXPECT_EQ(max_tokens(40), 10u);  // as far as the context of 50 leaves room
  params.min_tokens = 35;
  EXPECT_EQ(max_tokens(3), 35u);
  params.max_tokens = 47;  // a default, no limit
  EXPECT_EQ(max_tokens(3), 47u);
  params = GenerateParams();
  model.defaults = GenerationDefaults();
  EXPECT_EQ(max_tokens(3), 47u);
}

TEST(ValidateTest, OnlyThePromptIsOneTokenForTheEngine) {
  GenerateParams params;
  params.max_tokens = 0;
  EXPECT_EQ(ParamOf(ValidateParams(params, SmallModel(), Caller())), "max_tokens");
  params.prompt_only = true;
  EXPECT_TRUE(ValidateParams(params, SmallModel(), Caller()).ok());
  const auto request = MakeRequest(SmallModel(), params, Caller(), {.ids = {1, 2, 3}}, {});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ((*request)->sampling.max_tokens, 1u);
  params.min_tokens = 1;
  EXPECT_EQ(ParamOf(ValidateParams(params, SmallModel(), Caller())), "min_tokens");
}

TEST(ValidateTest, SetParametersWin) {
  GenerateParams params;
  params.temperature = 0;
  params.top_k = -1;
  params.top_p = 0.5;
  params.min_p = 0;
  params.repetition_penalty = 1;
  params.seed = 8;
  params.max_tokens = 47;
  params.ignore_eos = true;
  params.stop_token_ids = {7, 7};
  const auto request =
      MakeRequest(SmallModel(), params, Caller(), {.ids = {1, 2, 3}},
                  {.id = 1, .public_id = "x-2", .arrival = absl::UnixEpoch(), .drawn_seed = 77});
  ASSERT_TRUE(request.ok()) << request.status();
  const SamplingParams& sampling = (*request)->sampling;
  EXPECT_EQ(sampling.temperature, 0);
  EXPECT_EQ(sampling.top_k, 0u);
  EXPECT_EQ(sampling.min_p, 0);
  EXPECT_EQ(sampling.repetition_penalty, 1);
  EXPECT_EQ(sampling.seed, 8u);
  EXPECT_EQ(sampling.max_tokens, 47u);
  EXPECT_EQ(sampling.stop_token_ids, std::vector<int32_t>{7});
}

TEST(ValidateTest, EveryParameterReachesTheRequest) {
  GenerateParams params;
  params.n = 2;
  params.best_of = 4;
  params.min_p = 0.25;
  params.presence_penalty = 1;
  params.frequency_penalty = -1;
  params.repetition_penalty = 1.5;
  params.logit_bias = {{7, 3}, {4, -2}};
  params.allowed_token_ids = {8, 5, 8};
  params.banned_token_ids = {6, 3, 3};
  params.min_tokens = 2;
  params.stop = {"x"};
  params.prompt_logprobs = 1;
  params.priority = 9;
  Caller caller;
  caller.tenant = "blue";
  caller.priority = 3;
  caller.cache.key[0] = 42;
  const auto make = [&] {
    auto request =
        MakeRequest(SmallModel(), params, caller, {.ids = {1, 2, 3}, .num_shared_tokens = 2}, {});
    EXPECT_TRUE(request.ok()) << request.status();
    return *request;
  };
  const auto request = make();
  EXPECT_EQ(request->tenant, "blue");
  EXPECT_EQ(request->priority, 9);
  EXPECT_EQ(request->cache.key[0], 42);
  EXPECT_EQ(request->cache.num_shared_tokens, 2u);
  const SamplingParams& sampling = request->sampling;
  EXPECT_EQ(sampling.num_choices, 4u);
  EXPECT_EQ(sampling.min_p, 0.25f);
  EXPECT_EQ(sampling.presence_penalty, 1);
  EXPECT_EQ(sampling.frequency_penalty, -1);
  EXPECT_EQ(sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{4, -2}, {7, 3}}));
  EXPECT_EQ(sampling.allowed_token_ids, (std::vector<int32_t>{5, 8}));
  EXPECT_EQ(sampling.banned_token_ids, (std::vector<int32_t>{3, 6}));
  EXPECT_EQ(sampling.min_tokens, 2u);
  EXPECT_TRUE(sampling.has_stop_strings);
  EXPECT_TRUE(sampling.logprobs);  // to find the best of them
  EXPECT_EQ(sampling.top_logprobs, 0u);
  EXPECT_EQ(sampling.prompt_logprobs, 2u);

  params = GenerateParams();
  EXPECT_EQ(make()->priority, 3);  // the caller's own
  EXPECT_FALSE(make()->sampling.logprobs);
  EXPECT_FALSE(make()->sampling.has_stop_strings);
  params.top_logprobs = 5;
  EXPECT_TRUE(make()->sampling.logprobs);
  EXPECT_EQ(make()->sampling.top_logprobs, 5u);
  EXPECT_EQ(make()->sampling.prompt_logprobs, 0u);
  params.score_prompt = true;  // echo
  EXPECT_EQ(make()->sampling.prompt_logprobs, 6u);
}

TEST(ValidateTest, ACallersPriorityHasItsBounds) {
  Caller caller;
  caller.priority_min = -5;
  caller.priority_max = 2;
  GenerateParams params;
  for (const auto& [priority, fine] :
       std::vector<std::pair<int, bool>>{{-6, false}, {-5, true}, {2, true}, {3, false}}) {
    params.priority = priority;
    EXPECT_EQ(ValidateParams(params, SmallModel(), caller).ok(), fine) << priority;
  }
}

TEST(ValidateTest, TokenSetsThatLeaveNothingAreRefused) {
  const auto refused = [](const GenerateParams& params) {
    const absl::Status status =
        MakeRequest(SmallModel(), params, Caller(), {.ids = {1}}, {}).status();
    return !status.ok() && ParamOf(status) == "allowed_token_ids";
  };
  GenerateParams params;
  params.allowed_token_ids = {5, 9};
  params.banned_token_ids = {5};
  EXPECT_FALSE(refused(params));
  params.min_tokens = 1;  // 9 ends the answer
  EXPECT_TRUE(refused(params));
  params.ignore_eos = true;
  EXPECT_FALSE(refused(params));
  params.banned_token_ids = {5, 9};
  EXPECT_TRUE(refused(params));
}

TEST(ValidateTest, LogProbabilitiesOfOneRequestAreBounded) {
  ServedModel model = SmallModel();
  model.context_max = 1 << 20;
  GenerateParams params;
  params.max_tokens = 10'000;
  params.top_logprobs = 20;
  params.n = 39;
  EXPECT_TRUE(MakeRequest(model, params, Caller(), {.ids = {1}}, {}).ok());
  params.n = 40;  // 8.4 million of them
  const absl::Status status = MakeRequest(model, params, Caller(), {.ids = {1}}, {}).status();
  EXPECT_EQ(ParamOf(status), "top_logprobs") << status;
}

TEST(ValidateTest, TooManyTokensSaysAllNumbers) {
  GenerateParams params;
  params.max_tokens = 48;
  params.max_tokens_name = "max_completion_tokens";
  const absl::Status status =
      MakeRequest(SmallModel(), params, Caller(), {.ids = {1, 2, 3}}, {}).status();
  EXPECT_EQ(ParamOf(status), "max_completion_tokens");
  EXPECT_EQ(CodeOf(status), "context_length_exceeded");
  for (const char* number : {"48", " 3 ", "50", "47"}) {
    EXPECT_NE(std::string(status.message()).find(number), std::string::npos) << status;
  }
}

TEST(RandomSourceTest, SeededSourcesRepeatAndIdsDiffer) {
  RandomSource one(uint64_t{5});
  RandomSource two(uint64_t{5});
  RandomSource other(std::nullopt);
  EXPECT_EQ(one.Next(), two.Next());
  EXPECT_NE(one.Next(), other.Next());
  const std::string id = one.NextId("cmpl-");
  EXPECT_EQ(id.size(), 5u + 24u);
  EXPECT_NE(id, one.NextId("cmpl-"));
}

}  // namespace
}  // namespace tessera::api
