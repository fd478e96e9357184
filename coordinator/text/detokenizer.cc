// The rules by which pieces of a stream join into text. Runs on the I/O thread of the stream, once
// per token.
#include "coordinator/text/detokenizer.h"

#include <utility>

#include "absl/status/statusor.h"
#include "coordinator/text/utf8.h"

namespace tessera::text {

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)),
      skip_special_(skip_special),
      strip_left_(tokenizer_->join_rules().strip_count) {}

Detokenizer::Delta Detokenizer::Push(int32_t id) {
  const Piece piece = tokenizer_->PieceOf(id);
  if (piece.kind == Piece::Kind::kAbsent || (piece.special && skip_special_)) return {};
  const JoinRules& rules = tokenizer_->join_rules();
  const bool first = std::exchange(first_, false);
  Delta delta;
  if (piece.kind == Piece::Kind::kByte) {
    pending_.append(piece.bytes);
    delta.held = true;
    if (pending_.size() >= kByteRunMax) SettleUtf8(&pending_, &delta.text);
    StripStart(&delta.text);
    return delta;
  }
  if (rules.joins_bytes) {
    pending_.append(piece.bytes);
    SettleUtf8(&pending_, &delta.text);
    StripStart(&delta.text);
    return delta;
  }
  CloseRun(&delta);
  std::string own;
  if (!first && rules.spaced) own += ' ';
  own += piece.bytes;
  if (first && rules.first_differs) own = tokenizer_->Decode({id}, false).value_or(own);
  StripStart(&own);
  delta.text += own;
  return delta;
}

Detokenizer::Delta Detokenizer::Flush() {
  Delta delta;
  if (tokenizer_->join_rules().joins_bytes) {
    if (!pending_.empty())
      delta.text = kReplacement;  // what is pending is the beginning of one character
    pending_.clear();
  } else {
    CloseRun(&delta);
  }
  return delta;
}

// A run of byte tokens is text as a whole, or one U+FFFD per byte.
void Detokenizer::CloseRun(Delta* delta) {
  std::string run = std::exchange(pending_, {});
  if (IsUtf8(run)) {
    delta->text = std::move(run);
  } else {
    for (size_t i = 0; i < run.size(); ++i) delta->text += kReplacement;
    delta->earlier_unit = kReplacement.size();
  }
  StripStart(&delta->text);
  delta->earlier = delta->text.size();
}

void Detokenizer::StripStart(std::string* text) {
  const std::string& character = tokenizer_->join_rules().strip;
  while (strip_left_ > 0 && !text->empty()) {
    if (text->compare(0, character.size(), character) != 0) {
      strip_left_ = 0;
      return;
    }
    text->erase(0, character.size());
    --strip_left_;
  }
}

}  // namespace tessera::text
