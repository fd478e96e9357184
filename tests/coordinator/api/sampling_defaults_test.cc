// generation_config.json as defaults of sampling: what is read, what is wrong with it.

#include "coordinator/api/sampling_defaults.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

namespace tessera {
namespace {

using testing::HasSubstr;

TEST(SamplingDefaultsTest, WhatTheFileSays) {
  const auto defaults = ParseSamplingDefaults(
      R"({"repetition_penalty": 1.05, "min_p": 0.1, "max_new_tokens": 2048, "top_k": 20})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->repetition_penalty, 1.05);
  EXPECT_EQ(defaults->min_p, 0.1);
  EXPECT_EQ(defaults->max_new_tokens, 2048);
}

TEST(SamplingDefaultsTest, WhatItDoesNotSayIsOff) {
  for (const char* text : {"", "{}", R"({"repetition_penalty": null, "max_new_tokens": null})"}) {
    const auto defaults = ParseSamplingDefaults(text);
    ASSERT_TRUE(defaults.ok()) << defaults.status();
    EXPECT_EQ(defaults->repetition_penalty, 1);
    EXPECT_EQ(defaults->min_p, 0);
    EXPECT_EQ(defaults->max_new_tokens, std::nullopt);
  }
}

TEST(SamplingDefaultsTest, BadValuesAreNamed) {
  struct Case {
    const char* text;
    const char* key;
  };
  for (const Case& bad : {Case{R"({"repetition_penalty": 0})", "repetition_penalty"},
                          Case{R"({"repetition_penalty": -1})", "repetition_penalty"},
                          Case{R"({"repetition_penalty": 10.5})", "repetition_penalty"},
                          Case{R"({"repetition_penalty": 1e-60})", "repetition_penalty"},
                          Case{R"({"repetition_penalty": "1.1"})", "repetition_penalty"},
                          Case{R"({"min_p": 1})", "min_p"}, Case{R"({"min_p": -0.1})", "min_p"},
                          Case{R"({"max_new_tokens": 0})", "max_new_tokens"},
                          Case{R"({"max_new_tokens": 1.5})", "max_new_tokens"}}) {
    const absl::Status status = ParseSamplingDefaults(bad.text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("generation_config.json")) << bad.text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.key)) << bad.text;
  }
}

}  // namespace
}  // namespace tessera
