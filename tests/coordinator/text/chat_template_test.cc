// Chat templates against the Python reference, look-alikes of control tokens, and the limits.

#include "coordinator/text/chat_template.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/text/golden.h"

namespace tessera::text {
namespace {

using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

class ChatTemplateGolden : public ::testing::Test {
 protected:
  std::shared_ptr<const ChatTemplate> Make(const Json& entry) {
    const Json config =
        LoadJson(ModelDir(entry["tokenizer"].get<std::string>()) / "tokenizer_config.json");
    tokenizer_ = LoadTokenizer(entry["tokenizer"].get<std::string>());
    auto made = ChatTemplate::Parse(
        golden_["templates"][entry["template"].get<std::string>()].get<std::string>(),
        config.dump(), tokenizer_);
    EXPECT_TRUE(made.ok()) << made.status();
    return *made;
  }

  const Json golden_ = LoadJson(GoldenDir() / "templates.json");
  const absl::Time now_ = absl::FromUnixSeconds(golden_["now"].get<int64_t>());
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(ChatTemplateGolden, RendersAndEncodesLikeTheReference) {
  for (const Json& entry : golden_["cases"]) {
    SCOPED_TRACE(entry["template"].get<std::string>() + " " + entry["name"].get<std::string>());
    const auto made = Make(entry);
    const auto prompt = made->Render(entry["input"].dump(), now_);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(prompt->text, entry["rendered"].get<std::string>());
    EXPECT_EQ(made->Encode(entry["input"].dump(), now_).value(), entry["ids"].get<Ids>());
  }
}

TEST_F(ChatTemplateGolden, LookAlikesStayText) {
  for (const Json& entry : golden_["look_alikes"]) {
    SCOPED_TRACE(entry["rendered"].get<std::string>());
    const auto made = Make(entry);
    const auto prompt = made->Render(entry["input"].dump(), now_);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(prompt->text, entry["rendered"].get<std::string>());
    const Ids ids = made->Encode(entry["input"].dump(), now_).value();
    EXPECT_EQ(ids, entry["ids"].get<Ids>());
    EXPECT_NE(ids, tokenizer_->Encode(prompt->text, {.parse_special = true}).value())
        << "this case would pass without any protection";
  }
}

TEST_F(ChatTemplateGolden, RefusesLikeTheReference) {
  for (const Json& entry : golden_["refused"]) {
    const absl::Status status = Make(entry)->Render(entry["input"].dump(), now_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(entry["error"].get<std::string>()));
  }
}

TEST_F(ChatTemplateGolden, DemoModel) {
  const auto tokenizer = LoadTokenizer("demo");
  const auto made = ChatTemplate::Load(ModelDir("demo"), tokenizer);
  ASSERT_TRUE(made.ok()) << made.status();
  for (const Json& entry : golden_["demo"]) {
    EXPECT_EQ((*made)->Render(entry["input"].dump(), now_)->text,
              entry["rendered"].get<std::string>());
    EXPECT_EQ((*made)->Encode(entry["input"].dump(), now_).value(), entry["ids"].get<Ids>());
  }
}

class ChatTemplateTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::shared_ptr<const ChatTemplate>> Parse(std::string_view source,
                                                            const ChatTemplateLimits& limits = {}) {
    return ChatTemplate::Parse(source, R"({"eos_token": "<|im_end|>"})", tokenizer_, limits);
  }
  absl::StatusOr<std::string> Text(std::string_view source, const Json& input,
                                   const ChatTemplateLimits& limits = {}) {
    const auto made = Parse(source, limits);
    if (!made.ok()) return made.status();
    const auto prompt = (*made)->Render(input.dump(), absl::UnixEpoch());
    if (!prompt.ok()) return prompt.status();
    return prompt->text;
  }
  // Number of control tokens in the prompt.
  int Controls(std::string_view source, const Json& input) {
    const auto made = Parse(source);
    EXPECT_TRUE(made.ok()) << made.status();
    const auto ids = (*made)->Encode(input.dump(), absl::UnixEpoch());
    EXPECT_TRUE(ids.ok()) << ids.status();
    const int32_t shaped = *tokenizer_->TokenToId("<|fim_prefix|>");
    return std::count_if(ids->begin(), ids->end(), [&](int32_t id) {
      return tokenizer_->PieceOf(id).special || id == shaped;
    });
  }

  const std::shared_ptr<const Tokenizer> tokenizer_ = LoadTokenizer("qwen");
};

TEST_F(ChatTemplateTest, NothingTheTemplateDoesMakesTextAControlToken) {
  struct Case {
    const char* source;
    Json input;
    int controls;  // that the template writes itself
  };
  const Case cases[] = {
      {"{{ x }}<|im_end|>", {{"x", "<|im_end|>"}}, 1},
      {"{{ x | trim }}<|im_end|>", {{"x", "  <|im_end|> "}}, 1},
      {"{% for p in x %}{{ p }}{% endfor %}", {{"x", {"<|im_", "end|>"}}}, 0},
      {"{{ x | join }}{{ eos_token }}", {{"x", {"<", "|im_e", "nd", "|", ">"}}}, 1},
      {"{% for p in x %}{{ p | trim }}{% endfor %}", {{"x", {"<|im_ ", " end|>"}}}, 0},
      {"{{ x.replace('<think>', '') }}", {{"x", "<|im_<think>end|>"}}, 0},
      {"{{ x.replace('<think>', '') }}", {{"x", "<<think>|im_end|>"}}, 0},
      {"{{ x.split('</think>')[-1].lstrip('\\n') }}", {{"x", "a</think>\n<|im_end|>"}}, 0},
      {"{{ x[1:] }}", {{"x", "x<|im_end|>"}}, 0},
      {"{{ x[::-1] }}", {{"x", ">|dne_mi|<"}}, 0},
      {"{{ x | upper | lower }}", {{"x", "<|im_end|>"}}, 0},
      {"{{ x | tojson }}", {{"x", {{"<|im_end|>", "<|im_start|>"}}}}, 0},
      {"{{ x }}", {{"x", "<|fim_prefix|>"}}, 0},
      {"{{ x }}<|im_end|>", {{"x", "<|im_end|>|im_end|>"}}, 1},
      {"{{ x }}<|pad|> ", {{"x", "<|pad|> <|pad|>"}}, 1},
      {"{{ '<|' + x.role + '|>' }}", {{"x", {{"role", "im_end"}}}}, 1},  // the template's own doing
      // The template looks for the token in the content, so that marks change what it writes.
      {"{% if '<|im_end|>' in x %}yes{% else %}no{% endif %}{{ x }}", {{"x", "a<|im_end|>"}}, 0},
      {"{{ x.split('|')[1] }}{{ x }}", {{"x", "a|b<|im_end|>"}}, 0},
      {"{{ x | length }}{{ x }}", {{"x", "<|im_end|>"}}, 0},
  };
  for (const Case& c : cases)
    EXPECT_EQ(Controls(c.source, c.input), c.controls) << c.source << c.input;
}

TEST_F(ChatTemplateTest, ReservedCharactersInTheTextAreLeftAlone) {
  EXPECT_EQ(Text("{{ x }}", {{"x", "|\U000F0000|\U000F0001 <|im_end|>"}}).value(),
            "|\U000F0000|\U000F0001 <|im_end|>");
}

TEST_F(ChatTemplateTest, FuelRunsOut) {
  const char* loops =
      "{% for i in range(10000) %}{% for j in range(10000) %}{% set x = j %}{% endfor %}{% endfor "
      "%}";
  const absl::Status status = Text(loops, Json::object(), {.fuel = 100'000}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("limit of 100000 instructions"));
  // One endless range is refused by itself.
  const absl::Status range =
      Text("{% for i in range(10**9) %}{% endfor %}", Json::object()).status();
  EXPECT_EQ(range.code(), absl::StatusCode::kInvalidArgument) << range;
  const absl::Status recursion =
      Text("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", Json::object()).status();
  EXPECT_FALSE(recursion.ok());
}

TEST_F(ChatTemplateTest, OutputIsLimited) {
  const char* source = "{% for i in range(1000) %}0123456789{% endfor %}";
  EXPECT_TRUE(Text(source, Json::object(), {.output_bytes = 10'000}).ok());
  const absl::Status status = Text(source, Json::object(), {.output_bytes = 9'999}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("limit of 9999 bytes"));
}

TEST_F(ChatTemplateTest, TemplateSizeIsLimited) {
  const absl::Status status = Parse(std::string(kTemplateBytesMax + 1, 'x')).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("limit of 262144"));
}

TEST_F(ChatTemplateTest, BadTemplatesAndInputsAreErrors) {
  EXPECT_EQ(Parse("{% for x in y %}").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Parse("{{ \xff }}").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Parse(std::string(50'000, '(')).status().code(), absl::StatusCode::kOk);  // plain text
  EXPECT_FALSE(Parse("{{ " + std::string(50'000, '(') + " }}").ok());
  const auto made = *Parse("{{ messages[0].content }}");
  for (const char* input : {"", "[]", "{", "{\"messages\": \"\xff\"}"}) {
    EXPECT_EQ(made->Render(input, absl::UnixEpoch()).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  const std::string deep = "{\"messages\": " + std::string(100'000, '[');
  EXPECT_EQ(made->Render(deep, absl::UnixEpoch()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

class ChatTemplateFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           ("tessera_chat_template_" + std::to_string(reinterpret_cast<uintptr_t>(this)) +
            ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& name, const std::string& content) {
    std::filesystem::create_directories((dir_ / name).parent_path());
    std::ofstream(dir_ / name) << content;
  }
  std::string Render(const std::string& input) {
    const auto made = ChatTemplate::Load(dir_, LoadTokenizer("qwen"));
    if (!made.ok()) return made.status().ToString();
    const auto prompt = (*made)->Render(input, absl::UnixEpoch());
    return prompt.ok() ? prompt->text : prompt.status().ToString();
  }

  std::filesystem::path dir_;
};

TEST_F(ChatTemplateFiles, MissingTemplateIsNotFound) {
  Write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  const absl::Status status = ChatTemplate::Load(dir_, LoadTokenizer("qwen")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no chat template"));
}

TEST_F(ChatTemplateFiles, StringListAndFile) {
  Write("tokenizer_config.json",
        R"({"chat_template": "one {{ eos_token }}", "eos_token": {"content": "</s>"}})");
  EXPECT_EQ(Render("{}"), "one </s>");
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "plain"},
                                      {"name": "tool_use", "template": "tools"}]})");
  EXPECT_EQ(Render("{}"), "plain");
  EXPECT_EQ(Render(R"({"tools": null})"), "plain");
  EXPECT_EQ(Render(R"({"tools": []})"), "tools");
  Write("chat_template.jinja", "file {{ bos_token is defined }}");
  Write("special_tokens_map.json", R"({"bos_token": "<s>"})");
  EXPECT_EQ(Render("{}"), "file True");
  Write("additional_chat_templates/tool_use.jinja", "file tools");
  EXPECT_EQ(Render(R"({"tools": []})"), "file tools");
}

TEST_F(ChatTemplateFiles, TheOrderOfPlaces) {
  Write("chat_template.json", R"({"chat_template": "last"})");
  EXPECT_EQ(Render("{}"), "last");
  Write("tokenizer_config.json", R"({"chat_template": "config"})");
  EXPECT_EQ(Render("{}"), "config");
  Write("additional_chat_templates/tool_use.jinja", "tools alone");
  EXPECT_EQ(Render(R"({"tools": []})"), "tools alone") << "files go before the config";
  EXPECT_THAT(Render("{}"), HasSubstr("none is named 'default'"));
  Write("mine.jinja", "mine");
  const auto tokenizer = LoadTokenizer("qwen");
  const auto mine = ChatTemplate::Load(dir_, tokenizer, dir_ / "mine.jinja");
  ASSERT_TRUE(mine.ok()) << mine.status();
  EXPECT_EQ((*mine)->Render(R"({"tools": []})", absl::UnixEpoch())->text, "mine");
  const absl::Status missing = ChatTemplate::Load(dir_, tokenizer, dir_ / "none.jinja").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("none.jinja"));
}

TEST_F(ChatTemplateFiles, DamagedConfigIsNamed) {
  Write("tokenizer_config.json", "{");
  EXPECT_THAT(Render("{}"), HasSubstr("tokenizer_config.json: not a JSON object"));
  Write("tokenizer_config.json", R"({"chat_template": 7})");
  EXPECT_THAT(Render("{}"), HasSubstr("chat_template is neither"));
}

}  // namespace
}  // namespace tessera::text
