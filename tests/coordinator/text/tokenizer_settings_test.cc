// What the files beside tokenizer.json change about it, against the Python reference, and what of
// them is refused.

#include "coordinator/text/tokenizer_settings.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/text/golden.h"

namespace tessera::text {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

class TokenizerSettingsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           ("tessera_settings_" + std::to_string(reinterpret_cast<uintptr_t>(this)) +
            ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& name, const std::string& content) {
    std::ofstream(dir_ / name) << content;
  }

  std::filesystem::path dir_;
};

TEST_F(TokenizerSettingsTest, ChangesEqualTheReferences) {
  const Json golden = LoadJson(GoldenDir() / "settings.json");
  ASSERT_GE(golden.size(), 12u);
  for (const Json& entry : golden) {
    const auto name = entry["name"].get<std::string>();
    SCOPED_TRACE(name);
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
    std::filesystem::copy_file(ModelDir(entry["tokenizer"].get<std::string>()) / "tokenizer.json",
                               dir_ / "tokenizer.json");
    for (const auto& [file, content] : entry["files"].items()) Write(file, content.dump());
    const auto tokenizer = Tokenizer::Load(dir_);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const Json& text : entry["texts"]) {
      EXPECT_EQ((*tokenizer)
                    ->Encode(text["text"].get<std::string>(),
                             {.add_special_tokens = true, .parse_special = true})
                    .value(),
                text["ids"].get<Ids>())
          << text["text"];
    }
    EXPECT_EQ((*tokenizer)->special_ids(), entry["special_ids"].get<Ids>());
    EXPECT_EQ(ReadTokenizerSettings(dir_)->special_tokens, entry["special_tokens"]);
  }
}

TEST_F(TokenizerSettingsTest, DamageIsNamed) {
  struct Case {
    const char* file;
    const char* content;
    const char* key;
  };
  for (const Case& bad : {
           Case{"tokenizer_config.json", R"({"bos_token": 7})", "\"bos_token\""},
           Case{"tokenizer_config.json", R"({"eos_token": {"text": "</s>"}})", "\"eos_token\""},
           Case{"tokenizer_config.json", R"({"eos_token": {"content": []}})", "\"eos_token\""},
           Case{"tokenizer_config.json", R"({"pad_token": {"content": "x", "lstrip": 1}})",
                "\"pad_token.lstrip\""},
           Case{"tokenizer_config.json", R"({"additional_special_tokens": "x"})",
                "\"additional_special_tokens\""},
           Case{"tokenizer_config.json", R"({"additional_special_tokens": [[]]})",
                "\"additional_special_tokens\""},
           Case{"tokenizer_config.json", R"({"added_tokens_decoder": []})",
                "\"added_tokens_decoder\""},
           Case{"tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "a"}}})",
                "\"added_tokens_decoder.x\""},
           Case{"tokenizer_config.json", R"({"added_tokens_decoder": {"-1": {"content": "a"}}})",
                "\"added_tokens_decoder.-1\""},
           Case{"tokenizer_config.json", R"({"added_tokens_decoder": {"3": "a"}})",
                "\"added_tokens_decoder.3\""},
           Case{"tokenizer_config.json",
                R"({"added_tokens_decoder": {"3": {"content": "a", "special": "yes"}}})",
                "\"added_tokens_decoder.3.special\""},
           Case{"tokenizer_config.json",
                R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": 1})",
                "\"add_bos_token\""},
           Case{"tokenizer_config.json",
                R"({"tokenizer_class": "LlamaTokenizer", "bos_token": null})", "\"bos_token\""},
           Case{"tokenizer_config.json", R"({"add_prefix_space": "no"})", "\"add_prefix_space\""},
           Case{"tokenizer_config.json", R"([])", "not a JSON object"},
           Case{"special_tokens_map.json", R"({"bos_token": []})", "\"bos_token\""},
           Case{"special_tokens_map.json", R"({)", "not a JSON object"},
       }) {
    Write(bad.file, bad.content);
    const absl::Status status = ReadTokenizerSettings(dir_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << bad.content;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(bad.file), HasSubstr(bad.key)))
        << bad.content;
    std::filesystem::remove(dir_ / bad.file);
  }
}

}  // namespace
}  // namespace tessera::text
