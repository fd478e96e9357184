// Feeds what the detokenizer gives to the stop strings and keeps count of which token gave what.
// Runs on the I/O thread of the stream.
#include "coordinator/text/text_stream.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "coordinator/text/utf8.h"

namespace tessera::text {

TextStream::TextStream(std::shared_ptr<const Tokenizer> tokenizer, StopStrings stops,
                       bool skip_special, size_t min_tokens)
    : detokenizer_(std::move(tokenizer), skip_special),
      stops_(std::move(stops)),
      min_tokens_(min_tokens) {}

TextStream::Output TextStream::Push(absl::Span<const int32_t> ids) {
  Output output;
  for (const int32_t id : ids) {
    if (stops_.stopped()) break;
    ++tokens_;
    const Detokenizer::Delta delta = detokenizer_.Push(id);
    if (Emit(delta, &output)) break;
    if (delta.earlier > 0) held_.clear();
    if (delta.held) held_.push_back(tokens_ - 1);
  }
  return output;
}

TextStream::Output TextStream::Finish() {
  Output output;
  if (stops_.stopped()) return output;
  if (!Emit(detokenizer_.Flush(), &output)) output.text += stops_.Finish();
  return output;
}

size_t TextStream::ExemptBytes(const Detokenizer::Delta& delta) const {
  if (tokens_ < min_tokens_) return delta.text.size();
  if (delta.earlier == 0) return 0;
  // Of the held tokens, ascending, those from `first` on may end the stream.
  const auto first = std::lower_bound(held_.begin(), held_.end(), min_tokens_,
                                      [](size_t index, size_t min) { return index + 1 < min; });
  const size_t counting = static_cast<size_t>(held_.end() - first) * delta.earlier_unit;
  return delta.earlier - std::min(delta.earlier, counting);
}

bool TextStream::Emit(const Detokenizer::Delta& delta, Output* output) {
  characters_ += CountCharacters(delta.text);
  StopStrings::Result result = stops_.Push(delta.text, ExemptBytes(delta));
  output->text += result.text;
  if (!result.match) return false;
  size_t index = tokens_ - 1;
  const size_t consumed = result.match->consumed;
  if (consumed <= delta.earlier) {
    // Counted from the end of the run: its beginning may have been stripped.
    const size_t after = (delta.earlier - consumed) / delta.earlier_unit;
    TESSERA_CHECK(after < held_.size()) << after << " of " << held_.size() << " held tokens";
    index = held_[held_.size() - 1 - after];
  }
  output->stop = Stop{index, result.match->stop_index, result.match->output_chars};
  return true;
}

}  // namespace tessera::text
