// UTF-8 by the table of well-formed sequences of the Unicode standard. Called by the stream
// decoder, on I/O threads.
#include "coordinator/text/utf8.h"

#include <cstdint>

namespace tessera::text {

Utf8Step NextUtf8(std::string_view bytes) {
  const auto byte = [&](size_t at) { return static_cast<uint8_t>(bytes[at]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {Utf8Step::Kind::kCharacter, 1};
  size_t size = 0;
  if (lead >= 0xC2 && lead <= 0xDF) size = 2;
  if (lead >= 0xE0 && lead <= 0xEF) size = 3;
  if (lead >= 0xF0 && lead <= 0xF4) size = 4;
  if (size == 0) return {Utf8Step::Kind::kBroken, 1};
  for (size_t at = 1; at < size; ++at) {
    if (at >= bytes.size()) return {Utf8Step::Kind::kIncomplete, at};
    // The second byte also keeps out overlong forms, surrogates and what is above U+10FFFF.
    uint8_t low = 0x80;
    uint8_t high = 0xBF;
    if (at == 1) {
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (byte(at) < low || byte(at) > high) return {Utf8Step::Kind::kBroken, at};
  }
  return {Utf8Step::Kind::kCharacter, size};
}

bool IsUtf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const Utf8Step step = NextUtf8(bytes);
    if (step.kind != Utf8Step::Kind::kCharacter) return false;
    bytes.remove_prefix(step.size);
  }
  return true;
}

size_t CountCharacters(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  return count;
}

std::string EncodeUtf8(char32_t c) {
  std::string out;
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
  return out;
}

void SettleUtf8(std::string* pending, std::string* text) {
  std::string_view rest = *pending;
  while (!rest.empty()) {
    const Utf8Step step = NextUtf8(rest);
    if (step.kind == Utf8Step::Kind::kIncomplete) break;
    text->append(step.kind == Utf8Step::Kind::kCharacter ? rest.substr(0, step.size)
                                                         : kReplacement);
    rest.remove_prefix(step.size);
  }
  pending->erase(0, pending->size() - rest.size());
}

}  // namespace tessera::text
