// Loads a tokenizer and passes texts and ids to the Rust text library, which owns all tables. Runs
// on the loading thread (Load, Parse) and on any number of I/O threads.
#include "coordinator/text/tokenizer.h"

#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "coordinator/text/ffi.h"
#include "coordinator/text/model_files.h"
#include "coordinator/text/tokenizer_settings.h"
#include "coordinator/text/utf8.h"

namespace tessera::text {

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(
    const std::filesystem::path& model_dir) {
  const std::filesystem::path path = model_dir / "tokenizer.json";
  absl::StatusOr<std::string> json = ReadModelFile(path, kTokenizerFileBytesMax);
  if (absl::IsNotFound(json.status())) {
    return absl::NotFoundError(absl::StrCat(
        path.string(),
        ": no such file. A model folder needs the tokenizer.json that the Hugging Face "
        "libraries write (save_pretrained of a fast tokenizer)."));
  }
  TESSERA_RETURN_IF_ERROR(json.status());
  TESSERA_ASSIGN_OR_RETURN(const TokenizerSettings settings, ReadTokenizerSettings(model_dir));
  const std::string changes =
      settings.changes.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  TESSERA_ASSIGN_OR_RETURN(std::shared_ptr<Tokenizer> tokenizer,
                           Make(*json, changes, path.string()));
  tokenizer->bos_token_ = settings.special_tokens.value("bos_token", "");
  tokenizer->eos_token_ = settings.special_tokens.value("eos_token", "");
  return tokenizer;
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Parse(std::string_view json,
                                                                  const std::string& origin) {
  return Make(json, "", origin);
}

absl::StatusOr<std::shared_ptr<Tokenizer>> Tokenizer::Make(std::string_view json,
                                                           std::string_view settings,
                                                           const std::string& origin) {
  if (json.size() > kTokenizerFileBytesMax) {
    return absl::ResourceExhaustedError(absl::StrCat(
        origin, ": ", json.size(), " bytes are over the limit of ", kTokenizerFileBytesMax));
  }
  tt_tokenizer* handle = nullptr;
  OwnedBytes error;
  const absl::Status status = ToStatus(tt_tokenizer_new(json.data(), json.size(), settings.data(),
                                                        settings.size(), &handle, error.out()),
                                       error);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(origin, ": ", status.message()));
  }
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer(handle));
  TESSERA_RETURN_IF_ERROR(tokenizer->Init());
  return tokenizer;
}

Tokenizer::~Tokenizer() { tt_tokenizer_free(handle_); }

absl::Status Tokenizer::Init() {
  tt_piece_table table;
  OwnedBytes error;
  TESSERA_RETURN_IF_ERROR(ToStatus(tt_pieces(handle_, &table, error.out()), error));
  join_rules_ = {.joins_bytes = table.joins_bytes != 0,
                 .first_differs = table.first_differs != 0,
                 .spaced = table.spaced != 0,
                 .strip = EncodeUtf8(table.strip),
                 .strip_count = table.strip_count};
  TESSERA_CHECK(table.size <= std::numeric_limits<int32_t>::max()) << "ids " << table.size;
  vocab_size_ = table.token_count;
  id_end_ = static_cast<int32_t>(table.size);
  kinds_ = absl::MakeConstSpan(table.kinds, table.size);
  offsets_ = absl::MakeConstSpan(table.offsets, table.size + 1);
  bytes_ = table.bytes;
  for (int32_t id = 0; id < id_end_; ++id) {
    if (kinds_[id] & TT_PIECE_SPECIAL) special_ids_.push_back(id);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options) const {
  if (text.size() > kEncodeBytesMax) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the text has ", text.size(), " bytes, more than the limit of ", kEncodeBytesMax));
  }
  const uint32_t flags = (options.add_special_tokens ? TT_ADD_SPECIAL_TOKENS : 0) |
                         (options.parse_special ? TT_PARSE_CONTROL_TOKENS : 0);
  OwnedIds ids;
  OwnedBytes error;
  TESSERA_RETURN_IF_ERROR(
      ToStatus(tt_encode(handle_, text.data(), text.size(), options.literal.data(),
                         options.literal.size(), flags, ids.out(), error.out()),
               error));
  return ids.vector<int32_t>();
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const int32_t> ids,
                                              bool skip_special) const {
  // A negative id becomes one that no vocabulary has.
  const std::vector<uint32_t> unsigned_ids(ids.begin(), ids.end());
  OwnedBytes text;
  OwnedBytes error;
  TESSERA_RETURN_IF_ERROR(ToStatus(tt_decode(handle_, unsigned_ids.data(), unsigned_ids.size(),
                                             skip_special, text.out(), error.out()),
                                   error));
  return text.str();
}

Piece Tokenizer::PieceOf(int32_t id) const {
  if (id < 0 || id >= id_end_) return {Piece::Kind::kAbsent, false, {}};
  const uint8_t kind = kinds_[id];
  return {static_cast<Piece::Kind>(kind & ~TT_PIECE_SPECIAL), (kind & TT_PIECE_SPECIAL) != 0,
          std::string_view(bytes_ + offsets_[id], offsets_[id + 1] - offsets_[id])};
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  uint8_t found = 0;
  uint32_t id = 0;
  OwnedBytes error;
  // Only text that is not UTF-8 fails, and that is no token.
  if (tt_token_to_id(handle_, token.data(), token.size(), &found, &id, error.out()) != TT_OK ||
      found == 0) {
    return std::nullopt;
  }
  return static_cast<int32_t>(id);
}

}  // namespace tessera::text
