// Feeds what the detokenizer gives to the stop strings and keeps count of which token gave what.
// Runs on the I/O thread of the stream.
#include "coordinator/text/text_stream.h"

#include <utility>

#include "base/check.h"

namespace tessera::text {

TextStream::TextStream(std::shared_ptr<const Tokenizer> tokenizer, StopStrings stops,
                       bool skip_special)
    : detokenizer_(std::move(tokenizer), skip_special), stops_(std::move(stops)) {}

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

bool TextStream::Emit(const Detokenizer::Delta& delta, Output* output) {
  StopStrings::Result result = stops_.Push(delta.text);
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
