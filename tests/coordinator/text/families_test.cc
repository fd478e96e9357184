// Chat templates and tokenizers of published models against the Python reference
// (tests/golden/text/families.py wrote the goldens and says where the models come from).

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/text/chat_template.h"
#include "gtest/gtest.h"
#include "tests/coordinator/text/golden.h"

namespace tessera::text {
namespace {

using Ids = std::vector<int32_t>;

std::filesystem::path FamiliesDir() { return GoldenDir() / "families"; }

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::shared_ptr<const Tokenizer> LoadFamily(const std::string& name) {
  auto tokenizer = Tokenizer::Load(FamiliesDir() / name);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(FamiliesTest, TemplatesRenderAndEncodeLikeTheReference) {
  const Json golden = LoadJson(FamiliesDir() / "templates.json");
  const absl::Time now = absl::FromUnixSeconds(golden["now"].get<int64_t>());
  const auto any_tokenizer = LoadTokenizer("gpt2");
  int rendered = 0;
  int refused = 0;
  int encoded = 0;
  for (const auto& [name, model] : golden["templates"].items()) {
    const auto tokenizer = model["tokenizer"].is_null()
                               ? any_tokenizer
                               : LoadFamily(model["tokenizer"].get<std::string>());
    const auto made = ChatTemplate::Parse(ReadText(FamiliesDir() / "templates" / (name + ".jinja")),
                                          model["special_tokens"].dump(), tokenizer);
    ASSERT_TRUE(made.ok()) << name << made.status();
    for (const auto& [case_name, wanted] : model["cases"].items()) {
      SCOPED_TRACE(name + " " + case_name);
      const std::string input = golden["inputs"][case_name].dump();
      const auto prompt = (*made)->Render(input, now);
      if (wanted.contains("refused")) {
        EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument) << prompt->text;
        ++refused;
        continue;
      }
      ASSERT_TRUE(prompt.ok()) << prompt.status();
      EXPECT_EQ(prompt->text, wanted["rendered"].get<std::string>());
      ++rendered;
      if (!wanted.contains("ids")) continue;
      EXPECT_EQ((*made)->Encode(input, now).value(), wanted["ids"].get<Ids>());
      ++encoded;
    }
  }
  EXPECT_GT(rendered, 200);
  EXPECT_GT(refused, 20);
  EXPECT_GT(encoded, 100);
}

TEST(FamiliesTest, TokenizersEncodeAndDecodeLikeTheReference) {
  int tokenizers = 0;
  for (const auto& entry : std::filesystem::directory_iterator(FamiliesDir())) {
    if (!std::filesystem::exists(entry.path() / "cases.json")) continue;
    const std::string name = entry.path().filename().string();
    const auto tokenizer = LoadFamily(name);
    ++tokenizers;
    for (const Json& wanted : LoadJson(entry.path() / "cases.json")) {
      const auto text = wanted["text"].get<std::string>();
      SCOPED_TRACE(name + ": " + text);
      const auto ids = wanted["ids"].get<Ids>();
      EXPECT_EQ(tokenizer->Encode(text, {.parse_special = true}).value(), ids);
      EXPECT_EQ(
          tokenizer->Encode(text, {.add_special_tokens = true, .parse_special = true}).value(),
          wanted["ids_added"].get<Ids>());
      EXPECT_EQ(tokenizer->Decode(ids, false).value(), wanted["decoded"].get<std::string>());
    }
  }
  EXPECT_EQ(tokenizers, 8);
}

}  // namespace
}  // namespace tessera::text
