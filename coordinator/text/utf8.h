// UTF-8 in small: how long a character is, writing one, and reading bytes that arrive in pieces
// with the replacement rule of the reference (one U+FFFD for each maximal broken part). Used by the
// decoder of token streams.

#ifndef TESSERA_COORDINATOR_TEXT_UTF8_H_
#define TESSERA_COORDINATOR_TEXT_UTF8_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace tessera::text {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

struct Utf8Step {
  enum class Kind { kCharacter, kBroken, kIncomplete };
  Kind kind;
  size_t size;  // bytes of the character, or of the maximal broken part, or all that is there
};

// Looks at the first character of `bytes` (not empty).
Utf8Step NextUtf8(std::string_view bytes);

bool IsUtf8(std::string_view bytes);

// Number of characters of valid UTF-8.
size_t CountCharacters(std::string_view text);

std::string EncodeUtf8(char32_t code_point);

// Appends to *text what of *pending is certain, broken parts as U+FFFD, and leaves the rest (at
// most 3 bytes) there.
void SettleUtf8(std::string* pending, std::string* text);

}  // namespace tessera::text

#endif  // TESSERA_COORDINATOR_TEXT_UTF8_H_
