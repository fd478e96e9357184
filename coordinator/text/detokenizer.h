// Token ids of one stream -> text, token by token. Never gives out part of a character; what it
// gave out is never taken back; all deltas and the flush together equal Tokenizer::Decode of all
// ids. Constant work per token. One per stream, used by one I/O thread at a time. Holds back at
// most kByteRunMax bytes.

#ifndef TESSERA_COORDINATOR_TEXT_DETOKENIZER_H_
#define TESSERA_COORDINATOR_TEXT_DETOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "coordinator/text/tokenizer.h"

namespace tessera::text {

// The reference decides about a run of byte tokens (<0xE4>...) as a whole, so it is held until it
// ends. A run that grows to this many bytes is given out up to its last whole character; only for
// such runs, and only when they are broken, the text may differ from Decode in the number of
// U+FFFD.
inline constexpr size_t kByteRunMax = 256;

class Detokenizer {
 public:
  struct Delta {
    std::string text;
    // The first `earlier` bytes of text were completed by held tokens before this one and only
    // became certain now; each of those tokens gave `earlier_unit` bytes of them.
    size_t earlier = 0;
    size_t earlier_unit = 1;
    bool held =
        false;  // the token is a byte of a run: what it adds comes with a later Push or Flush
  };

  explicit Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special = true);

  Delta Push(int32_t id);
  // The end of the stream: what was held back, an incomplete character as U+FFFD.
  Delta Flush();

 private:
  void CloseRun(Delta* delta);
  void StripStart(std::string* text);

  const std::shared_ptr<const Tokenizer> tokenizer_;
  const bool skip_special_;
  bool first_ = true;    // no token has added anything yet
  uint32_t strip_left_;  // how many characters may still vanish at the start
  std::string pending_;  // an incomplete character (at most 3 bytes), or a run of byte tokens
};

}  // namespace tessera::text

#endif  // TESSERA_COORDINATOR_TEXT_DETOKENIZER_H_
