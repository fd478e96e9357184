// Detokenizer and stop strings together: the text and, above all, which token ended it.

#include "coordinator/text/text_stream.h"

#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "coordinator/text/utf8.h"
#include "gtest/gtest.h"
#include "tests/coordinator/text/golden.h"

namespace tessera::text {
namespace {

struct StreamOutcome {
  std::string text;
  std::optional<TextStream::Stop> stop;
};

StreamOutcome PushAll(TextStream& stream, const std::vector<int32_t>& ids, std::mt19937& random) {
  StreamOutcome outcome;
  const auto take = [&](TextStream::Output output) {
    outcome.text += output.text;
    if (output.stop) outcome.stop = output.stop;
  };
  for (size_t at = 0; at < ids.size();) {
    const size_t count = std::min<size_t>(random() % 4, ids.size() - at);
    take(stream.Push(absl::MakeConstSpan(ids).subspan(at, count)));
    at += count;
  }
  take(stream.Finish());
  return outcome;
}

class TextStreamTest : public ::testing::TestWithParam<const char*> {
 protected:
  const std::shared_ptr<const Tokenizer> tokenizer_ = LoadTokenizer(GetParam());
};

INSTANTIATE_TEST_SUITE_P(All, TextStreamTest, ::testing::ValuesIn(kTokenizerNames),
                         [](const auto& info) { return std::string(info.param); });

// The token that completes a stop string is the first one after which the decoded prefix holds all
// of the final text up to the stop string's end.
TEST_P(TextStreamTest, NamesTheTokenThatCompletedTheStop) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const std::vector<std::string> stops = {"\n\n", "\u6f22\u5b57", "i = ", "\U0001f600", "o w", "}"};
  int stopped = 0;
  for (const std::vector<int32_t>& ids : GoldenIds(GetParam())) {
    const std::string whole = tokenizer_->Decode(ids, true).value();
    size_t end = std::string::npos;  // of the stop string that ends first, in bytes
    for (const std::string& stop : stops) {
      const size_t at = whole.find(stop);
      if (at != std::string::npos) end = std::min(end, at + stop.size());
    }
    TextStream stream(tokenizer_, StopStrings::Create(stops, true).value());
    const StreamOutcome outcome = PushAll(stream, ids, random);
    EXPECT_EQ(outcome.text, whole.substr(0, end));
    ASSERT_EQ(outcome.stop.has_value(), end != std::string::npos);
    if (!outcome.stop) continue;
    size_t count = 1;
    const auto holds = [&] {
      const auto prefix = absl::MakeConstSpan(ids).first(count);
      return tokenizer_->Decode(prefix, true).value().substr(0, end) == whole.substr(0, end);
    };
    while (!holds()) ++count;
    EXPECT_EQ(outcome.stop->token_index, count - 1) << whole;
    EXPECT_EQ(stream.Push(ids).text, "");
    ++stopped;
  }
  EXPECT_GE(stopped, 2);
}

// The same with a minimum of tokens: stop strings that an earlier token completes do not count.
TEST_P(TextStreamTest, MinTokensPassesOverEarlyStops) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const std::vector<std::string> stops = {"e", " ", "\u6f22", "\U0001f600"};
  int passed_over = 0;
  for (const std::vector<int32_t>& ids : GoldenIds(GetParam())) {
    if (ids.empty()) continue;
    const std::string whole = tokenizer_->Decode(ids, true).value();
    const size_t min_tokens = random() % ids.size();
    std::set<size_t> ends;  // of all stop strings, in bytes
    for (const std::string& stop : stops) {
      for (size_t at = whole.find(stop); at != std::string::npos; at = whole.find(stop, at + 1)) {
        ends.insert(at + stop.size());
      }
    }
    size_t count = 0, end = std::string::npos;  // tokens and bytes of the stop that counts
    for (const size_t candidate : ends) {
      count = 1;
      const auto holds = [&] {
        const auto prefix = absl::MakeConstSpan(ids).first(count);
        return tokenizer_->Decode(prefix, true).value().substr(0, candidate) ==
               whole.substr(0, candidate);
      };
      while (!holds()) ++count;
      if (count >= min_tokens) {
        end = candidate;
        break;
      }
      ++passed_over;
    }
    TextStream stream(tokenizer_, StopStrings::Create(stops, true).value(), true, min_tokens);
    const StreamOutcome outcome = PushAll(stream, ids, random);
    EXPECT_EQ(outcome.text, whole.substr(0, end));
    ASSERT_EQ(outcome.stop.has_value(), end != std::string::npos) << whole;
    if (outcome.stop) {
      EXPECT_EQ(outcome.stop->token_index, count - 1) << whole;
    }
  }
  EXPECT_GE(passed_over, 2);
}

TEST_P(TextStreamTest, CertainTokensStayAndCharactersAreCounted) {
  for (const std::vector<int32_t>& ids : GoldenIds(GetParam())) {
    const std::string whole = tokenizer_->Decode(ids, true).value();
    for (const char* stop : {"\u6f22\u5b57", "o w", "\U0001f600"}) {
      TextStream stream(tokenizer_, StopStrings::Create({stop}, true).value());
      size_t certain = 0;
      std::optional<TextStream::Stop> found;
      for (size_t i = 0; i < ids.size() && !found; ++i) {
        const size_t characters = stream.characters();
        found = stream.Push({&ids[i], 1}).stop;
        if (found) break;
        EXPECT_GE(stream.certain_tokens(), certain);
        EXPECT_LE(stream.certain_tokens(), i + 1);
        EXPECT_GE(stream.characters(), characters);
        certain = stream.certain_tokens();
      }
      if (!found) found = stream.Finish().stop;
      if (found) {
        EXPECT_GE(found->token_index + 1, certain) << whole;
      } else {
        EXPECT_EQ(stream.characters(), CountCharacters(whole));
      }
    }
  }
}

TEST_P(TextStreamTest, WithoutStopsItIsDecode) {
  std::mt19937 random(1);
  for (const std::vector<int32_t>& ids : GoldenIds(GetParam())) {
    TextStream stream(tokenizer_, StopStrings::Create({}, false).value());
    EXPECT_EQ(PushAll(stream, ids, random).text, tokenizer_->Decode(ids, true).value());
    EXPECT_EQ(stream.tokens(), ids.size());
  }
}

TEST(TextStreamByteRunTest, StopInsideAByteRunNamesItsLastByte) {
  const auto tokenizer = LoadTokenizer("gemmabytes");
  std::vector<int32_t> ids = tokenizer->Encode("\u6f22x", {}).value();
  ASSERT_EQ(ids.size(), 4u);
  ids.insert(ids.begin() + 3,
             *tokenizer->TokenToId("<bos>"));  // adds nothing, so completes nothing
  TextStream stream(tokenizer, StopStrings::Create({"\u6f22"}, true).value());
  EXPECT_EQ(stream.Push(absl::MakeConstSpan(ids).first(4)).text, "");
  EXPECT_EQ(stream.certain_tokens(), 1u);  // any byte of the run may turn out to be the last one
  const TextStream::Output output = stream.Push(absl::MakeConstSpan(ids).subspan(4));
  EXPECT_EQ(output.text, "\u6f22");
  ASSERT_TRUE(output.stop.has_value());
  EXPECT_EQ(output.stop->token_index, 2u);
  EXPECT_EQ(output.stop->output_chars, 1u);

  TextStream at_end(tokenizer, StopStrings::Create({"\u6f22"}, false).value());
  at_end.Push(absl::MakeConstSpan(ids).first(3));
  const TextStream::Output finish = at_end.Finish();
  EXPECT_EQ(finish.text, "");
  ASSERT_TRUE(finish.stop.has_value());
  EXPECT_EQ(finish.stop->token_index, 2u);
}

}  // namespace
}  // namespace tessera::text
