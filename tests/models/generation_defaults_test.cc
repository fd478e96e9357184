// generation_config.json: what is taken, what is left out with a warning, what is refused.

#include "models/generation_defaults.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(GenerationDefaults, GenerationConfigGoesFirst) {
  const std::string config = R"({"eos_token_id": 2, "bos_token_id": 1, "temperature": 9})";
  absl::StatusOr<GenerationDefaults> defaults = ParseGenerationDefaults(config, "");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_THAT(defaults->eos_token_ids, ElementsAre(2));
  EXPECT_EQ(defaults->bos_token_id, 1);
  EXPECT_EQ(defaults->temperature, 1.0f);
  EXPECT_EQ(defaults->top_k, 0u);
  EXPECT_EQ(defaults->top_p, 1.0f);
  EXPECT_EQ(defaults->min_p, 0.0f);
  EXPECT_EQ(defaults->repetition_penalty, 1.0f);
  EXPECT_EQ(defaults->max_new_tokens, std::nullopt);

  defaults = ParseGenerationDefaults(
      config, R"({"eos_token_id": [7, 9], "do_sample": true, "temperature": 0.6, "top_p": 0.9,
          "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.05, "max_new_tokens": 2048})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_THAT(defaults->eos_token_ids, ElementsAre(7, 9));
  EXPECT_EQ(defaults->bos_token_id, 1);
  EXPECT_EQ(defaults->temperature, 0.6f);
  EXPECT_EQ(defaults->top_k, 40u);
  EXPECT_EQ(defaults->top_p, 0.9f);
  EXPECT_EQ(defaults->min_p, 0.1f);
  EXPECT_EQ(defaults->repetition_penalty, 1.05f);
  EXPECT_EQ(defaults->max_new_tokens, 2048);
  EXPECT_THAT(defaults->warnings, IsEmpty());

  defaults = ParseGenerationDefaults("{}", R"({"do_sample": false, "temperature": 0.6,
                                               "repetition_penalty": null})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->temperature, 0.0f);
  EXPECT_TRUE(defaults->eos_token_ids.empty());
  EXPECT_EQ(defaults->bos_token_id, -1);
  EXPECT_THAT(defaults->warnings, IsEmpty());
}

TEST(GenerationDefaults, AnEndTokenThatIsNoneIsNamedWhereverItStands) {
  absl::StatusOr<GenerationDefaults> defaults =
      ParseGenerationDefaults(R"({"eos_token_id": "abc"})", "");
  EXPECT_THAT(std::string(defaults.status().message()),
              AllOf(HasSubstr("config.json: \"eos_token_id\" is \"abc\"")));
  defaults = ParseGenerationDefaults(R"({"eos_token_id": "abc"})", R"({"eos_token_id": 7})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_THAT(defaults->eos_token_ids, ElementsAre(7));
  EXPECT_THAT(defaults->warnings, ElementsAre(HasSubstr("\"eos_token_id\" is \"abc\"")));
  EXPECT_THAT(
      std::string(ParseGenerationDefaults("{}", R"({"top_k": 1, "top_k": 2})").status().message()),
      HasSubstr("generation_config.json has \"top_k\" twice"));
}

TEST(GenerationDefaults, OddValuesOfSamplingAreLeftOutWithAWarning) {
  struct Case {
    const char* text;
    const char* key;
  };
  for (const Case& odd :
       {Case{R"({"top_k": -1})", "top_k"}, Case{R"({"top_k": 1.5})", "top_k"},
        Case{R"({"top_k": "50"})", "top_k"}, Case{R"({"top_k": 99999999})", "top_k"},
        Case{R"({"top_p": 1.1})", "top_p"}, Case{R"({"top_p": -0.1})", "top_p"},
        Case{R"({"temperature": -1})", "temperature"},
        Case{R"({"temperature": 1e9})", "temperature"}, Case{R"({"do_sample": 1})", "do_sample"},
        Case{R"({"min_p": 1})", "min_p"}, Case{R"({"min_p": 0.99999999999})", "min_p"},
        Case{R"({"min_p": -0.1})", "min_p"},
        Case{R"({"repetition_penalty": 0})", "repetition_penalty"},
        Case{R"({"repetition_penalty": -1})", "repetition_penalty"},
        Case{R"({"repetition_penalty": 10.5})", "repetition_penalty"},
        Case{R"({"repetition_penalty": 1e-60})", "repetition_penalty"},
        Case{R"({"repetition_penalty": "1.1"})", "repetition_penalty"},
        Case{R"({"max_new_tokens": -1})", "max_new_tokens"},
        Case{R"({"max_new_tokens": 1.5})", "max_new_tokens"}}) {
    const auto defaults = ParseGenerationDefaults("{}", odd.text);
    ASSERT_TRUE(defaults.ok()) << odd.text << defaults.status();
    EXPECT_THAT(defaults->warnings, ElementsAre(AllOf(HasSubstr("generation_config.json"),
                                                      HasSubstr(odd.key), HasSubstr("left out"))))
        << odd.text;
    EXPECT_EQ(defaults->temperature, 1.0f) << odd.text;
    EXPECT_EQ(defaults->top_k, 0u) << odd.text;
    EXPECT_EQ(defaults->top_p, 1.0f) << odd.text;
    EXPECT_EQ(defaults->min_p, 0.0f) << odd.text;
    EXPECT_EQ(defaults->repetition_penalty, 1.0f) << odd.text;
    EXPECT_EQ(defaults->max_new_tokens, std::nullopt) << odd.text;
  }
}

TEST(GenerationDefaults, TopPOfNothingLeavesOneToken) {
  const auto defaults = ParseGenerationDefaults("{}", R"({"top_p": 0, "max_new_tokens": 0})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_GT(defaults->top_p, 0.0f);
  EXPECT_LT(defaults->top_p, 1e-5f);
  EXPECT_EQ(defaults->max_new_tokens, std::nullopt);
}

TEST(GenerationDefaults, NegativeEndTokensAreNone) {
  const auto defaults =
      ParseGenerationDefaults("{}", R"({"eos_token_id": [-1, 5], "bos_token_id": -1})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_THAT(defaults->eos_token_ids, ElementsAre(5));
  EXPECT_EQ(defaults->bos_token_id, -1);
  EXPECT_THAT(defaults->warnings,
              ElementsAre(HasSubstr("eos_token_id"), HasSubstr("bos_token_id")));
}

TEST(GenerationDefaults, DamageIsNamed) {
  for (const char* text : {R"({"eos_token_id": "2"})", R"({"eos_token_id": [2, null]})",
                           R"({"eos_token_id": 1.5})", R"({"eos_token_id": [[2]]})",
                           R"({"eos_token_id": {"a": 2}})", R"({"eos_token_id": 99999999})"}) {
    const absl::Status status = ParseGenerationDefaults("{}", text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("generation_config.json"), HasSubstr("\"eos_token_id\"")))
        << text;
  }
  std::string many = "1";
  for (size_t i = 0; i < kEosTokensMax; ++i) many += ",1";
  EXPECT_FALSE(ParseGenerationDefaults("{}", "{\"eos_token_id\": [" + many + "]}").ok());
  for (const char* text : {"[]", "{", "nonsense", "\"x\""}) {
    EXPECT_THAT(std::string(ParseGenerationDefaults("{}", text).status().message()),
                HasSubstr("generation_config.json"))
        << text;
  }
  EXPECT_THAT(std::string(ParseGenerationDefaults("[", "").status().message()),
              HasSubstr("config.json"));
}

}  // namespace
}  // namespace tessera
