// Streams of ids against decoding all at once: whole characters only, and the same text in the end.

#include "coordinator/text/detokenizer.h"

#include <random>
#include <string>
#include <vector>

#include "coordinator/text/utf8.h"
#include "gtest/gtest.h"
#include "tests/coordinator/text/golden.h"

namespace tessera::text {
namespace {

std::string Stream(const std::shared_ptr<const Tokenizer>& tokenizer,
                   const std::vector<int32_t>& ids, bool skip_special) {
  Detokenizer detokenizer(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const Detokenizer::Delta delta = detokenizer.Push(id);
    EXPECT_TRUE(IsUtf8(delta.text)) << "broken UTF-8 in a delta";
    EXPECT_LE(delta.earlier, delta.text.size());
    text += delta.text;
  }
  text += detokenizer.Flush().text;
  EXPECT_EQ(detokenizer.Flush().text, "") << "a second flush gives nothing";
  return text;
}

class DetokenizerGolden : public ::testing::TestWithParam<const char*> {
 protected:
  const std::shared_ptr<const Tokenizer> tokenizer_ = LoadTokenizer(GetParam());
};

INSTANTIATE_TEST_SUITE_P(All, DetokenizerGolden, ::testing::ValuesIn(kTokenizerNames),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(DetokenizerGolden, DeltasEqualTheReference) {
  const Json golden = LoadJson(GoldenDir() / GetParam() / "cases.json");
  for (const char* list : {"texts", "decodes"}) {
    for (const Json& entry : golden[list]) {
      const auto ids = entry["ids"].get<std::vector<int32_t>>();
      EXPECT_EQ(Stream(tokenizer_, ids, false), entry["decoded"].get<std::string>());
      EXPECT_EQ(Stream(tokenizer_, ids, true), entry["decoded_skip"].get<std::string>());
    }
  }
}

TEST_P(DetokenizerGolden, RandomIdsEqualDecode) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::uniform_int_distribution<int32_t> any(-1, tokenizer_->id_end());
  std::uniform_int_distribution<int32_t> low(0,
                                             std::min(270, tokenizer_->id_end()));  // single bytes
  for (int round = 0; round < 400; ++round) {
    std::vector<int32_t> ids(random() % 60);
    for (int32_t& id : ids) id = round % 2 == 0 ? any(random) : low(random);
    const bool skip = round % 3 != 0;
    ASSERT_EQ(Stream(tokenizer_, ids, skip), tokenizer_->Decode(ids, skip).value());
  }
}

TEST(DetokenizerTest, HoldsAnIncompleteCharacterAndNothingElse) {
  const auto tokenizer = LoadTokenizer("gpt2");
  const std::vector<int32_t> ids = tokenizer->Encode("x\U0001f600", {}).value();
  ASSERT_EQ(ids.size(), 5u) << "the test wants one token per byte";
  Detokenizer detokenizer(tokenizer);
  EXPECT_EQ(detokenizer.Push(ids[0]).text, "x");
  for (int i = 1; i < 4; ++i) EXPECT_EQ(detokenizer.Push(ids[i]).text, "");
  EXPECT_EQ(detokenizer.Push(ids[4]).text, "\U0001f600");
  detokenizer.Push(ids[1]);
  EXPECT_EQ(detokenizer.Push(ids[0]).text, "\uFFFDx") << "certainly broken now";
  detokenizer.Push(ids[1]);
  detokenizer.Push(ids[2]);
  EXPECT_EQ(detokenizer.Flush().text, "\uFFFD");
}

TEST(DetokenizerTest, ByteRunBelongsToItsOwnTokens) {
  const auto tokenizer = LoadTokenizer("gemmabytes");
  const std::vector<int32_t> ids = tokenizer->Encode("\u6f22\u6f22a", {}).value();
  ASSERT_EQ(ids.size(), 7u);
  Detokenizer detokenizer(tokenizer);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(detokenizer.Push(ids[i]).text, "");
  const Detokenizer::Delta delta = detokenizer.Push(ids[6]);
  EXPECT_EQ(delta.text,
            "\u6f22\u6f22"
            "a");
  EXPECT_EQ(delta.earlier, 6u);
}

TEST(DetokenizerTest, LongByteRunIsNotHeldForEver) {
  const auto tokenizer = LoadTokenizer("gemmabytes");
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "\u6f22";
  const std::vector<int32_t> ids = tokenizer->Encode(text, {}).value();
  ASSERT_EQ(ids.size(), text.size());
  Detokenizer detokenizer(tokenizer);
  std::string out;
  for (size_t i = 0; i < ids.size(); ++i) {
    out += detokenizer.Push(ids[i]).text;
    ASSERT_LE(i + 1 - out.size(), kByteRunMax);
  }
  EXPECT_GT(out.size(), text.size() - kByteRunMax);
  EXPECT_EQ(out + detokenizer.Flush().text, text);
}

}  // namespace
}  // namespace tessera::text
