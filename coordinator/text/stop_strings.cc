// One Knuth-Morris-Pratt automaton per stop string, advanced byte by byte. Runs on the I/O thread
// of the stream.
#include "coordinator/text/stop_strings.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "coordinator/text/utf8.h"

namespace tessera::text {

absl::StatusOr<StopStrings> StopStrings::Create(std::vector<std::string> stops, bool include_stop) {
  if (stops.size() > kStopStringsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(stops.size(), " stop strings are over the limit of ", kStopStringsMax));
  }
  std::vector<Pattern> patterns;
  for (size_t index = 0; index < stops.size(); ++index) {
    std::string& stop = stops[index];
    if (stop.empty() || !IsUtf8(stop)) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop string ", index, stop.empty() ? " is empty" : " is not valid UTF-8"));
    }
    if (stop.size() > kStopStringBytesMax) {
      return absl::ResourceExhaustedError(absl::StrCat("stop string ", index, " has ", stop.size(),
                                                       " bytes, more than the limit of ",
                                                       kStopStringBytesMax));
    }
    Pattern pattern{std::move(stop), {}, 0};
    pattern.borders.assign(pattern.text.size(), 0);
    for (size_t at = 1, border = 0; at < pattern.text.size(); ++at) {
      while (border > 0 && pattern.text[at] != pattern.text[border]) {
        border = pattern.borders[border - 1];
      }
      if (pattern.text[at] == pattern.text[border]) ++border;
      pattern.borders[at] = border;
    }
    patterns.push_back(std::move(pattern));
  }
  return StopStrings(std::move(patterns), include_stop);
}

std::optional<size_t> StopStrings::Step(char byte) {
  std::optional<size_t> complete;
  for (size_t index = 0; index < patterns_.size(); ++index) {
    Pattern& pattern = patterns_[index];
    size_t matched = pattern.matched;
    while (matched > 0 && pattern.text[matched] != byte) matched = pattern.borders[matched - 1];
    if (pattern.text[matched] == byte) ++matched;
    pattern.matched = matched;
    if (matched == pattern.text.size() &&
        (!complete || pattern.text.size() > patterns_[*complete].text.size())) {
      complete = index;
    }
  }
  return complete;
}

StopStrings::Result StopStrings::Push(std::string_view text, size_t exempt) {
  if (stopped_) return {};
  Result result;
  result.text = std::exchange(held_, {});
  for (size_t at = 0; at < text.size(); ++at) {
    result.text += text[at];
    const std::optional<size_t> complete = Step(text[at]);
    if (!complete) continue;
    if (at < exempt) {
      // Not a match, but its end may be the beginning of the next one.
      for (Pattern& pattern : patterns_) {
        if (pattern.matched == pattern.text.size()) pattern.matched = pattern.borders.back();
      }
      continue;
    }
    stopped_ = true;
    if (!include_stop_) {
      result.text.resize(result.text.size() - patterns_[*complete].text.size());
    }
    given_chars_ += CountCharacters(result.text);
    result.match = Match{*complete, given_chars_, at + 1};
    return result;
  }
  size_t hold = 0;
  for (const Pattern& pattern : patterns_) hold = std::max(hold, pattern.matched);
  held_ = result.text.substr(result.text.size() - hold);
  result.text.resize(result.text.size() - hold);
  given_chars_ += CountCharacters(result.text);
  return result;
}

std::string StopStrings::Finish() { return std::exchange(held_, {}); }

}  // namespace tessera::text
