// A tokenizer for models that come without one: a token is a byte. Used where weights are made up
// (--load-format dummy) and text only has to go in and out. Pure function.

#ifndef TESSERA_COORDINATOR_TEXT_BYTE_TOKENIZER_H_
#define TESSERA_COORDINATOR_TEXT_BYTE_TOKENIZER_H_

#include <string>

namespace tessera::text {

// The content of a tokenizer.json with 256 tokens: byte-level, without merges; id b is byte b.
std::string ByteTokenizerJson();

}  // namespace tessera::text

#endif  // TESSERA_COORDINATOR_TEXT_BYTE_TOKENIZER_H_
