// See the header.

#include "coordinator/text/byte_tokenizer.h"

#include <nlohmann/json.hpp>

namespace tessera::text {
namespace {

// Byte-level vocabularies spell a byte that is no printable character of Latin-1 as the next free
// code point from 256 on.
bool IsSpelledAsItself(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

// All code points here are below 0x800.
std::string Utf8(int code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 63))};
}

}  // namespace

std::string ByteTokenizerJson() {
  nlohmann::json vocabulary = nlohmann::json::object();
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[Utf8(IsSpelledAsItself(byte) ? byte : next++)] = byte;
  }
  const nlohmann::json bytes = {{"type", "ByteLevel"},
                                {"add_prefix_space", false},
                                {"trim_offsets", true},
                                {"use_regex", false}};
  const nlohmann::json json = {{"version", "1.0"},
                               {"truncation", nullptr},
                               {"padding", nullptr},
                               {"added_tokens", nlohmann::json::array()},
                               {"normalizer", nullptr},
                               {"pre_tokenizer", bytes},
                               {"post_processor", nullptr},
                               {"decoder", bytes},
                               {"model",
                                {{"type", "BPE"},
                                 {"dropout", nullptr},
                                 {"unk_token", nullptr},
                                 {"continuing_subword_prefix", nullptr},
                                 {"end_of_word_suffix", nullptr},
                                 {"fuse_unk", false},
                                 {"byte_fallback", false},
                                 {"ignore_merges", false},
                                 {"vocab", vocabulary},
                                 {"merges", nlohmann::json::array()}}}};
  return json.dump();
}

}  // namespace tessera::text
