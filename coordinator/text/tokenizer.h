// Text <-> token ids of one model, equal to the reference tokenizer. Loaded once per model,
// immutable, shared by all I/O threads; the engine thread never calls it. Limits:
// kTokenizerFileBytesMax, kEncodeBytesMax.

#ifndef TESSERA_COORDINATOR_TEXT_TOKENIZER_H_
#define TESSERA_COORDINATOR_TEXT_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

struct tt_tokenizer;

namespace tessera::text {

// tokenizer.json, bytes. The largest known ones have 35 MB.
inline constexpr size_t kTokenizerFileBytesMax = size_t{128} << 20;
// One text to encode, bytes. Far over any context; bounds the memory of one call.
inline constexpr size_t kEncodeBytesMax = size_t{8} << 20;

struct EncodeOptions {
  // What the model's post-processor adds around a text (usually the begin token). A chat template
  // writes these itself, so a rendered prompt is encoded without.
  bool add_special_tokens = false;
  // false: "<|end|>" in the text is seven characters. true: it is the control token, except where
  // `literal` says otherwise.
  bool parse_special = false;
  // Byte offsets, ascending, that no control token may cover (from ChatTemplate::Render).
  absl::Span<const uint32_t> literal = {};
};

// What one id adds to a text; how pieces join is in JoinRules.
struct Piece {
  enum class Kind { kAbsent, kText, kByte };
  Kind kind;
  bool special;
  std::string_view bytes;  // need not be valid UTF-8 by itself; lives as long as the tokenizer
};

struct JoinRules {
  bool joins_bytes;    // bytes of all pieces are joined, then read as UTF-8 (byte-level BPE)
  bool first_differs;  // the first token of a text: use Decode for it
  bool spaced;         // a blank between tokens
  std::string strip;   // up to strip_count of this character vanish at the start of a text
  uint32_t strip_count;
};

class Tokenizer {
 public:
  // Reads tokenizer.json, and beside it (they may be missing) tokenizer_config.json,
  // special_tokens_map.json and config.json, see tokenizer_settings.h.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(
      const std::filesystem::path& model_dir);

  // From the content of a tokenizer.json. `origin` names it in errors.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Parse(std::string_view json,
                                                                const std::string& origin);

  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  ~Tokenizer();

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const;
  // Ids outside the vocabulary add nothing.
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool skip_special) const;

  // kAbsent, no bytes, for an id outside the vocabulary.
  Piece PieceOf(int32_t id) const;
  const JoinRules& join_rules() const { return join_rules_; }
  std::optional<int32_t> TokenToId(std::string_view token) const;

  size_t vocab_size() const { return vocab_size_; }                         // number of tokens
  int32_t id_end() const { return id_end_; }                                // greatest id + 1
  const std::vector<int32_t>& special_ids() const { return special_ids_; }  // ascending
  // As tokenizer_config.json has them; empty when the model names none.
  const std::string& bos_token() const { return bos_token_; }
  const std::string& eos_token() const { return eos_token_; }

 private:
  friend class ChatTemplate;
  explicit Tokenizer(tt_tokenizer* handle) : handle_(handle) {}
  static absl::StatusOr<std::shared_ptr<Tokenizer>> Make(std::string_view json,
                                                         std::string_view settings,
                                                         const std::string& origin);
  absl::Status Init();

  tt_tokenizer* const handle_;
  JoinRules join_rules_{};
  size_t vocab_size_ = 0;
  int32_t id_end_ = 0;
  // Into the memory of handle_.
  absl::Span<const uint8_t> kinds_;     // [id_end]
  absl::Span<const uint32_t> offsets_;  // [id_end + 1]
  const char* bytes_ = nullptr;
  std::vector<int32_t> special_ids_;
  std::string bos_token_;
  std::string eos_token_;
};

}  // namespace tessera::text

#endif  // TESSERA_COORDINATOR_TEXT_TOKENIZER_H_
