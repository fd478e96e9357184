// Stop strings in a stream, against a search in the whole text.

#include "coordinator/text/stop_strings.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "coordinator/text/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tessera::text {
namespace {

struct Outcome {
  std::string text;
  int stop = -1;
  size_t chars = 0;
  bool operator==(const Outcome&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Outcome& o) {
  return out << "'" << o.text << "' stop " << o.stop << " chars " << o.chars;
}

// The definition, by search: the first end behind the exempt bytes, then the longest, then the
// first listed.
Outcome Naive(const std::string& text, const std::vector<std::string>& stops, bool include,
              size_t exempt) {
  for (size_t end = exempt + 1; end <= text.size(); ++end) {
    int best = -1;
    for (size_t i = 0; i < stops.size(); ++i) {
      if (end < stops[i].size() ||
          text.compare(end - stops[i].size(), stops[i].size(), stops[i]) != 0) {
        continue;
      }
      if (best < 0 || stops[i].size() > stops[best].size()) best = static_cast<int>(i);
    }
    if (best < 0) continue;
    const std::string out = text.substr(0, include ? end : end - stops[best].size());
    return {out, best, CountCharacters(out)};
  }
  return {text, -1, 0};
}

TEST(StopStringsTest, RandomSplitsEqualASearch) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const std::vector<std::string> letters = {"a", "b", "a", "\u00e9", "\u6f22", "\U0001f600"};
  const auto word = [&](size_t max) {
    std::string text;
    for (size_t n = random() % max + 1; n > 0; --n) text += letters[random() % letters.size()];
    return text;
  };
  int matches = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops(random() % 5);
    for (std::string& stop : stops) stop = word(6);
    const std::string text = word(40);
    const bool include = random() % 2;
    const size_t exempt = random() % 2 ? 0 : random() % text.size();
    StopStrings finder = StopStrings::Create(stops, include).value();
    Outcome got;
    size_t at = 0;
    while (at < text.size()) {
      size_t size =
          random() % 8;  // whole characters, as the detokenizer gives them; sometimes nothing
      while (at + size < text.size() && (text[at + size] & 0xC0) == 0x80) ++size;
      const StopStrings::Result result =
          finder.Push(std::string_view(text).substr(at, size), exempt - std::min(exempt, at));
      EXPECT_TRUE(IsUtf8(result.text));
      got.text += result.text;
      if (result.match) {
        got.stop = static_cast<int>(result.match->stop_index);
        got.chars = result.match->output_chars;
        EXPECT_EQ(finder.Push("aaa").text, "") << "text after a match";
        break;
      }
      at += size;
    }
    if (got.stop < 0) got.text += finder.Finish();
    ASSERT_EQ(got, Naive(text, stops, include, exempt)) << "text " << text;
    matches += got.stop >= 0;
  }
  EXPECT_GT(matches, 1000);
}

TEST(StopStringsTest, HoldsOnlyWhatMayBecomeAStop) {
  StopStrings finder = StopStrings::Create({"</end>", "ab"}, false).value();
  EXPECT_EQ(finder.Push("x</en").text, "x");
  EXPECT_EQ(finder.Push("x").text, "</enx");
  EXPECT_EQ(finder.Push("ya").text, "y");
  EXPECT_EQ(finder.Push("c").text, "ac");
  EXPECT_EQ(finder.Push("</").text, "");
  EXPECT_EQ(finder.Finish(), "</");
}

TEST(StopStringsTest, FirstEndWinsThenTheLongest) {
  StopStrings first_end = StopStrings::Create({"abcd", "bc"}, false).value();
  const StopStrings::Result result = first_end.Push("xabcd");
  EXPECT_EQ(result.text, "xa");
  EXPECT_EQ(result.match->stop_index, 1u);
  StopStrings longest = StopStrings::Create({"c", "bc", "abc"}, false).value();
  const StopStrings::Result longest_result = longest.Push("xabc");
  EXPECT_EQ(longest_result.text, "x");
  EXPECT_EQ(longest_result.match->stop_index, 2u);
}

TEST(StopStringsTest, LimitsAndBadStringsAreNamed) {
  using ::testing::HasSubstr;
  EXPECT_TRUE(StopStrings::Create(std::vector<std::string>(kStopStringsMax, "x"), false).ok());
  const absl::Status many =
      StopStrings::Create(std::vector<std::string>(kStopStringsMax + 1, "x"), false).status();
  EXPECT_EQ(many.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(many.message()), HasSubstr("limit of 16"));
  const absl::Status size =
      StopStrings::Create({"a", std::string(kStopStringBytesMax + 1, 'x')}, false).status();
  EXPECT_EQ(size.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(size.message()), HasSubstr("stop string 1"));
  EXPECT_EQ(StopStrings::Create({"a", ""}, false).status().message(), "stop string 1 is empty");
  EXPECT_EQ(StopStrings::Create({"\xff"}, false).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tessera::text
