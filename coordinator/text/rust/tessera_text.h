// The C ABI of the Rust text library (reference tokenizer, chat templates). Only coordinator/text
// includes it.
//
// Text is UTF-8 with an explicit length; nothing is NUL-terminated. A function returns TT_OK and
// fills its outputs, or returns another code and fills only *error, a sentence that must go to
// tt_bytes_free. Outputs need no initialization. Handles never change after creation: any number of
// threads may use one at once. A panic inside the library comes back as TT_PANIC. No entry blocks,
// reads files, or looks at a clock.

#ifndef TESSERA_COORDINATOR_TEXT_RUST_TESSERA_TEXT_H_
#define TESSERA_COORDINATOR_TEXT_RUST_TESSERA_TEXT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  TT_OK = 0,
  TT_ARGUMENT = 1,  // the caller's input is wrong: UTF-8, JSON
  TT_DAMAGED = 2,   // a model file is damaged, or of a kind that is not supported
  TT_LIMIT = 3,     // a limit was hit; the message names it
  TT_TEMPLATE = 4,  // the template refused the conversation or failed on it
  TT_PANIC = 5      // a panic was caught at the edge
} tt_status;

typedef struct tt_tokenizer tt_tokenizer;
typedef struct tt_template tt_template;

typedef struct {
  char* data;
  size_t size;
} tt_bytes;

typedef struct {
  uint32_t* data;
  size_t size;
} tt_ids;

enum { TT_ADD_SPECIAL_TOKENS = 1, TT_PARSE_CONTROL_TOKENS = 2 };

enum { TT_PIECE_ABSENT = 0, TT_PIECE_TEXT = 1, TT_PIECE_BYTE = 2, TT_PIECE_SPECIAL = 0x80 };

// What every id adds to a text, and the rules between pieces. Valid as long as the tokenizer.
typedef struct {
  const char* bytes;
  const uint32_t* offsets;  // [size + 1]: piece i is bytes[offsets[i] .. offsets[i + 1])
  const uint8_t* kinds;     // [size]: TT_PIECE_*, possibly with TT_PIECE_SPECIAL
  size_t size;              // greatest id + 1
  size_t token_count;       // number of distinct tokens
  uint32_t strip;           // code point; up to strip_count of it vanish at the start of a text
  uint32_t strip_count;
  uint8_t joins_bytes;    // bytes of all pieces are joined, then read as UTF-8 (byte-level BPE)
  uint8_t first_differs;  // the first token of a text decodes differently: use tt_decode for it
  uint8_t spaced;         // a blank between tokens
} tt_piece_table;

typedef struct {
  uint64_t template_bytes;  // of the template's source
  uint64_t fuel;            // instructions of one rendering
  uint64_t output_bytes;    // of one rendered prompt
} tt_template_limits;

// json: the content of a tokenizer.json. settings: what the files beside it change about it, a JSON
// object (see src/settings.rs), or nothing.
int32_t tt_tokenizer_new(const char* json, size_t json_size, const char* settings,
                         size_t settings_size, tt_tokenizer** out, tt_bytes* error);
void tt_tokenizer_free(tt_tokenizer* tokenizer);

// Without TT_PARSE_CONTROL_TOKENS control tokens are encoded as the text they look like. With it
// they are recognized, but for matches that cover one of the byte offsets in literal (ascending).
int32_t tt_encode(const tt_tokenizer* tokenizer, const char* text, size_t text_size,
                  const uint32_t* literal, size_t literal_size, uint32_t flags, tt_ids* out,
                  tt_bytes* error);

// Ids that the vocabulary does not have add nothing.
int32_t tt_decode(const tt_tokenizer* tokenizer, const uint32_t* ids, size_t ids_size,
                  uint8_t skip_special, tt_bytes* out, tt_bytes* error);

int32_t tt_token_to_id(const tt_tokenizer* tokenizer, const char* token, size_t token_size,
                       uint8_t* found, uint32_t* id, tt_bytes* error);

int32_t tt_pieces(const tt_tokenizer* tokenizer, tt_piece_table* out, tt_bytes* error);

// special_tokens: a JSON object (bos_token, eos_token, ...): variables of the template that are
// trusted.
int32_t tt_template_new(const char* source, size_t source_size, const char* special_tokens,
                        size_t special_tokens_size, const tt_template_limits* limits,
                        tt_template** out, tt_bytes* error);
void tt_template_free(tt_template* chat_template);

// input: a JSON object: messages, tools, add_generation_prompt, and any other variable. literal:
// byte offsets in text, ascending, that came from strings of input and must not become control
// tokens; goes to tt_encode.
int32_t tt_template_render(const tt_template* chat_template, const tt_tokenizer* tokenizer,
                           const char* input, size_t input_size, int64_t now_unix_seconds,
                           tt_bytes* text, tt_ids* literal, tt_bytes* error);

void tt_bytes_free(tt_bytes bytes);
void tt_ids_free(tt_ids ids);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // TESSERA_COORDINATOR_TEXT_RUST_TESSERA_TEXT_H_
