// Finds the first stop string in a stream of text, whatever the pieces it arrives in. Text that
// could still be the beginning of a stop string is held back. One per stream, one thread at a time;
// at most kStopStringsMax strings of kStopStringBytesMax bytes, and that many bytes held.

#ifndef TESSERA_COORDINATOR_TEXT_STOP_STRINGS_H_
#define TESSERA_COORDINATOR_TEXT_STOP_STRINGS_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera::text {

inline constexpr size_t kStopStringsMax = 16;
inline constexpr size_t kStopStringBytesMax = 1024;

class StopStrings {
 public:
  struct Match {
    size_t stop_index;    // which stop string, as passed to Create
    size_t output_chars;  // characters of the whole output up to its end
    size_t consumed;      // bytes of this Push up to and including the last one of the stop string
  };
  struct Result {
    std::string text;  // may be given out
    std::optional<Match> match;
  };

  // InvalidArgument for an empty or broken string, ResourceExhausted over a limit. No strings at
  // all is fine.
  static absl::StatusOr<StopStrings> Create(std::vector<std::string> stops, bool include_stop);

  // The stop string that ends first counts; of several that end there, the longest, then the first
  // listed. After a match the stream is over: nothing more is given out. One that ends in the first
  // `exempt` bytes of `text` does not count.
  Result Push(std::string_view text, size_t exempt = 0);
  // The end of the stream without a match: what was held back.
  std::string Finish();

  bool stopped() const { return stopped_; }

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t>
        borders;         // [i]: longest proper prefix of text[0..i] that is also its suffix
    size_t matched = 0;  // bytes of text that the stream ends with
  };

  StopStrings(std::vector<Pattern> patterns, bool include_stop)
      : patterns_(std::move(patterns)), include_stop_(include_stop) {}
  // Advances all patterns by one byte; the pattern that is complete now, if any.
  std::optional<size_t> Step(char byte);

  std::vector<Pattern> patterns_;
  bool include_stop_;
  std::string held_;
  size_t given_chars_ = 0;
  bool stopped_ = false;
};

}  // namespace tessera::text

#endif  // TESSERA_COORDINATOR_TEXT_STOP_STRINGS_H_
