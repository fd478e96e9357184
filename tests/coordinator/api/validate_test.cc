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
  return model;
}

TEST(ValidateTest, RangesNameTheParameter) {
  struct Case {
    std::string param;
    std::function<void(GenerateParams&)> set;
  };
  const double nan = std::nan("");
  const double inf = std::numeric_limits<double>::infinity();
  for (const Case& bad :
       std::vector<Case>{{"temperature", [](auto& p) { p.temperature = -0.1; }},
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
                         {"stop", [](auto& p) { p.stop.assign(17, "x"); }},
                         {"stop", [](auto& p) { p.stop = {""}; }},
                         {"stop", [](auto& p) { p.stop = {std::string(1025, 'x')}; }},
                         {"stop_token_ids", [](auto& p) { p.stop_token_ids = {100}; }},
                         {"stop_token_ids", [](auto& p) { p.stop_token_ids = {-1}; }},
                         {"stop_token_ids", [](auto& p) { p.stop_token_ids.assign(65, 1); }}}) {
    GenerateParams params;
    bad.set(params);
    const absl::Status status = ValidateParams(params, SmallModel());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.param;
    EXPECT_EQ(ParamOf(status), bad.param) << status;
  }
  GenerateParams edges;
  edges.temperature = 2;
  edges.top_p = 1;
  edges.top_k = 100;
  edges.stop.assign(16, "x");
  EXPECT_TRUE(ValidateParams(edges, SmallModel()).ok());
}

TEST(ValidateTest, UnsetParametersComeFromTheModel) {
  const auto request =
      MakeRequest(SmallModel(), {}, {1, 2, 3},
                  {.id = 5, .public_id = "x-1", .arrival = absl::UnixEpoch(), .drawn_seed = 77});
  ASSERT_TRUE(request.ok()) << request.status();
  const SamplingParams& sampling = (*request)->sampling;
  EXPECT_EQ((*request)->id, 5u);
  EXPECT_EQ((*request)->model, 3u);
  EXPECT_FLOAT_EQ(sampling.temperature, 0.6f);
  EXPECT_EQ(sampling.top_k, 20u);
  EXPECT_FLOAT_EQ(sampling.top_p, 0.95f);
  EXPECT_EQ(sampling.seed, 77u);
  EXPECT_EQ(sampling.max_tokens, 47u);  // what the context leaves
  EXPECT_EQ(sampling.stop_token_ids, (std::vector<int32_t>{2, 9}));
}

TEST(ValidateTest, SetParametersWin) {
  GenerateParams params;
  params.temperature = 0;
  params.top_k = -1;
  params.top_p = 0.5;
  params.seed = 8;
  params.max_tokens = 47;
  params.ignore_eos = true;
  params.stop_token_ids = {7, 7};
  const auto request =
      MakeRequest(SmallModel(), params, {1, 2, 3},
                  {.id = 1, .public_id = "x-2", .arrival = absl::UnixEpoch(), .drawn_seed = 77});
  ASSERT_TRUE(request.ok()) << request.status();
  const SamplingParams& sampling = (*request)->sampling;
  EXPECT_EQ(sampling.temperature, 0);
  EXPECT_EQ(sampling.top_k, 0u);
  EXPECT_EQ(sampling.seed, 8u);
  EXPECT_EQ(sampling.max_tokens, 47u);
  EXPECT_EQ(sampling.stop_token_ids, std::vector<int32_t>{7});
}

TEST(ValidateTest, TooManyTokensSaysAllNumbers) {
  GenerateParams params;
  params.max_tokens = 48;
  params.max_tokens_name = "max_completion_tokens";
  const absl::Status status = MakeRequest(SmallModel(), params, {1, 2, 3}, {}).status();
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
