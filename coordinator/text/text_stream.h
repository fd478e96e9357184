// Ids of one answer in, text to send out: detokenizer and stop strings together, and which token
// completed a stop string, so that the engine can be told (TextStop{index}). One per stream, one
// I/O thread at a time.

#ifndef TESSERA_COORDINATOR_TEXT_TEXT_STREAM_H_
#define TESSERA_COORDINATOR_TEXT_TEXT_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/text/detokenizer.h"
#include "coordinator/text/stop_strings.h"
#include "coordinator/text/tokenizer.h"

namespace tessera::text {

class TextStream {
 public:
  struct Stop {
    size_t token_index;   // index in the whole stream of the token that completed the stop string
    size_t stop_index;    // which stop string
    size_t output_chars;  // characters of the whole output up to its end
  };
  struct Output {
    std::string text;
    std::optional<Stop> stop;  // set once; Push after it gives nothing
  };

  // A stop string that the first `min_tokens` - 1 tokens complete does not count.
  TextStream(std::shared_ptr<const Tokenizer> tokenizer, StopStrings stops,
             bool skip_special = true, size_t min_tokens = 0);

  // Tokens after the one that completed a stop string add nothing.
  Output Push(absl::Span<const int32_t> ids);
  // No more tokens. Gives out all that was held back; that text may still complete a stop string.
  Output Finish();

  size_t tokens() const { return tokens_; }  // pushed so far, up to a stop
  // The first so many of them are part of the stream whatever comes: a stop string may still turn
  // out to have ended with any later one.
  size_t certain_tokens() const { return held_.empty() ? tokens_ : held_.front() + 1; }
  // Characters made so far, those that stop strings hold back included.
  size_t characters() const { return characters_; }

 private:
  // How many of the first bytes of a delta come from tokens before the min_tokens-th.
  size_t ExemptBytes(const Detokenizer::Delta& delta) const;
  // Sends a delta through the stop strings; true on a match.
  bool Emit(const Detokenizer::Delta& delta, Output* output);

  Detokenizer detokenizer_;
  StopStrings stops_;
  size_t min_tokens_;
  size_t tokens_ = 0;
  size_t characters_ = 0;
  std::vector<size_t> held_;  // indices of the tokens whose bytes the detokenizer holds
};

}  // namespace tessera::text

#endif  // TESSERA_COORDINATOR_TEXT_TEXT_STREAM_H_
