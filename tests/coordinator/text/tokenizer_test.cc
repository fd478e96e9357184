// The tokenizer against the Python reference, and what it does with damaged or hostile files.

#include "coordinator/text/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/text/golden.h"

namespace tessera::text {
namespace {

using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

class TokenizerGolden : public ::testing::TestWithParam<const char*> {
 protected:
  const std::shared_ptr<const Tokenizer> tokenizer_ = LoadTokenizer(GetParam());
  const Json golden_ = LoadJson(GoldenDir() / GetParam() / "cases.json");
};

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden, ::testing::ValuesIn(kTokenizerNames),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(TokenizerGolden, EncodesLikeTheReference) {
  int look_alikes = 0;
  for (const Json& entry : golden_["texts"]) {
    const auto text = entry["text"].get<std::string>();
    const auto ids = entry["ids"].get<Ids>();
    const auto literal = entry["ids_literal"].get<Ids>();
    EXPECT_EQ(tokenizer_->Encode(text, {.parse_special = true}).value(), ids) << text;
    EXPECT_EQ(tokenizer_->Encode(text, {.add_special_tokens = true, .parse_special = true}).value(),
              entry["ids_added"].get<Ids>())
        << text;
    EXPECT_EQ(tokenizer_->Encode(text, {}).value(), literal) << text;
    look_alikes += ids != literal;
  }
  EXPECT_GE(look_alikes, 1) << "the corpus has no text that looks like a control token";
}

TEST_P(TokenizerGolden, DecodesLikeTheReference) {
  for (const char* list : {"texts", "decodes"}) {
    for (const Json& entry : golden_[list]) {
      const auto ids = entry["ids"].get<Ids>();
      EXPECT_EQ(tokenizer_->Decode(ids, false).value(), entry["decoded"].get<std::string>());
      EXPECT_EQ(tokenizer_->Decode(ids, true).value(), entry["decoded_skip"].get<std::string>());
    }
  }
}

TEST_P(TokenizerGolden, KnowsItsVocabulary) {
  EXPECT_EQ(tokenizer_->vocab_size(), golden_["vocab_size"].get<size_t>());
  EXPECT_EQ(tokenizer_->special_ids(), golden_["special_ids"].get<Ids>());
  const Json config = LoadJson(ModelDir(GetParam()) / "tokenizer_config.json");
  ASSERT_TRUE(config.contains("eos_token"));
  const std::string eos = config["eos_token"].is_string()
                              ? config["eos_token"].get<std::string>()
                              : config["eos_token"]["content"].get<std::string>();
  EXPECT_EQ(tokenizer_->eos_token(), eos);
  const std::optional<int32_t> eos_id = tokenizer_->TokenToId(eos);
  ASSERT_TRUE(eos_id.has_value());
  EXPECT_TRUE(tokenizer_->PieceOf(*eos_id).special);
  EXPECT_EQ(tokenizer_->PieceOf(*eos_id).bytes, eos);
  EXPECT_EQ(tokenizer_->TokenToId("no such token \xff"), std::nullopt);
  EXPECT_EQ(tokenizer_->PieceOf(-1).kind, Piece::Kind::kAbsent);
  EXPECT_EQ(tokenizer_->PieceOf(tokenizer_->id_end()).kind, Piece::Kind::kAbsent);
}

TEST_P(TokenizerGolden, IsSafeToShare) {
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int& count : wrong) {
    threads.emplace_back([this, &count] {
      for (const Json& entry : golden_["texts"]) {
        const auto ids =
            tokenizer_->Encode(entry["text"].get<std::string>(), {.parse_special = true});
        count += ids.value() != entry["ids"].get<Ids>();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(TokenizerTest, LiteralOffsetsKeepOnlyTheCoveredMatchText) {
  const auto tokenizer = LoadTokenizer("qwen");
  const std::string text = "<|im_end|>a<|im_end|>";
  const int32_t end = *tokenizer->TokenToId("<|im_end|>");
  const std::vector<uint32_t> literal = {12};  // inside the second
  const Ids ids = tokenizer->Encode(text, {.parse_special = true, .literal = literal}).value();
  EXPECT_EQ(std::count(ids.begin(), ids.end(), end), 1);
  EXPECT_EQ(ids.front(), end);
  EXPECT_EQ(tokenizer->Decode(ids, false).value(), text);
}

TEST(TokenizerTest, RefusesBrokenUtf8AndTooMuchText) {
  const auto tokenizer = LoadTokenizer("gpt2");
  const absl::Status broken = tokenizer->Encode("ab\xff", {}).status();
  EXPECT_EQ(broken.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(broken.message()), HasSubstr("not valid UTF-8 at byte 2"));
  const absl::Status large = tokenizer->Encode(std::string(kEncodeBytesMax + 1, 'a'), {}).status();
  EXPECT_EQ(large.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(large.message()), HasSubstr(std::to_string(kEncodeBytesMax)));
}

TEST(TokenizerTest, MissingFileIsNamed) {
  const absl::Status status = Tokenizer::Load("/nowhere/model").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/model/tokenizer.json"));
}

TEST(TokenizerTest, DamagedFilesAreErrors) {
  std::ifstream file(ModelDir("llama3") / "tokenizer.json");
  const std::string good((std::istreambuf_iterator<char>(file)), {});
  const std::vector<std::string> damaged = {
      "",
      "{}",
      "[]",
      "null",
      "\xff\xfe",
      good.substr(0, good.size() / 2),
      good.substr(0, good.size() - 3),
      std::string(100000, '['),
      R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}})",
      R"({"model": {"type": "NoSuchModel"}, "added_tokens": []})"};
  for (const std::string& json : damaged) {
    const absl::Status status = Tokenizer::Parse(json, "here.json").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << json.substr(0, 80);
    EXPECT_THAT(std::string(status.message()), HasSubstr("here.json: tokenizer.json: "));
  }
}

TEST(TokenizerTest, EveryTruncationIsAnErrorNotACrash) {
  std::ifstream file(ModelDir("metaspace") / "tokenizer.json");
  std::string good((std::istreambuf_iterator<char>(file)), {});
  while (!good.empty() && good.back() != '}') good.pop_back();
  for (size_t size = 0; size < good.size(); size += 97) {
    EXPECT_FALSE(Tokenizer::Parse(good.substr(0, size), "cut").ok()) << size;
  }
  EXPECT_TRUE(Tokenizer::Parse(good, "whole").ok());
}

TEST(TokenizerTest, HugeIdIsRefused) {
  const absl::Status status =
      Tokenizer::Parse(R"({"model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}})",
                       "x")
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("4000000000"));
}

TEST(TokenizerTest, UnstreamableDecoderIsRefusedByName) {
  const absl::Status status =
      Tokenizer::Parse(R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}})",
                       "x")
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("WordPiece"));
}

// The expression backtracks until the regex library gives up, which it reports by a panic.
TEST(TokenizerTest, PanicBecomesAnError) {
  const auto tokenizer = Tokenizer::Parse(R"json({
    "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?:a|a|aa)+\\1?(?=b)(x+x+)+y"},
                      "behavior": "Isolated", "invert": false}})json",
                                          "hostile");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const absl::Status status = (*tokenizer)->Encode(std::string(64, 'a') + "b", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("a panic was caught"));
  EXPECT_TRUE((*tokenizer)->Encode("b", {}).ok()) << "the handle is still usable";
}

}  // namespace
}  // namespace tessera::text
