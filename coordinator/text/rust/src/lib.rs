//! The C edge of the text library; tessera_text.h is its contract. Every entry runs inside `guard`:
//! a panic below becomes an error code and never crosses. Handles are immutable after creation and
//! may be used by any number of threads at once. Memory returned here is freed here.

mod control;
mod encode;
mod error;
mod pieces;
mod python;
mod settings;
mod template;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;

use tokenizers::tokenizer::Tokenizer;

use control::ControlTable;
use encode::{Controls, Encoder};
use error::{Code, Error, Result};
use pieces::Pieces;
use template::{Limits, Template};

const ADD_SPECIAL_TOKENS: u32 = 1;
const PARSE_CONTROL_TOKENS: u32 = 2;

pub struct TtTokenizer {
    tokenizer: Tokenizer,
    encoder: Encoder,
    controls: ControlTable,
    pieces: Pieces,
}

pub struct TtTemplate(Template);

/// Owned by the library until tt_bytes_free.
#[repr(C)]
pub struct TtBytes {
    data: *mut u8,
    size: usize,
}

/// Owned by the library until tt_ids_free.
#[repr(C)]
pub struct TtIds {
    data: *mut u32,
    size: usize,
}

#[repr(C)]
pub struct TtPieces {
    bytes: *const u8,
    offsets: *const u32,
    kinds: *const u8,
    size: usize,
    token_count: usize,
    strip: u32,
    strip_count: u32,
    joins_bytes: u8,
    first_differs: u8,
    spaced: u8,
}

impl TtBytes {
    fn new(bytes: Vec<u8>) -> Self {
        let bytes = bytes.into_boxed_slice();
        let size = bytes.len();
        TtBytes { data: Box::into_raw(bytes).cast(), size }
    }
}

impl TtIds {
    fn new(ids: Vec<u32>) -> Self {
        let ids = ids.into_boxed_slice();
        let size = ids.len();
        TtIds { data: Box::into_raw(ids).cast(), size }
    }
}

/// Runs an entry; 0 on success, else the code, with the sentence in `error`.
unsafe fn guard(error: *mut TtBytes, body: impl FnOnce() -> Result<()>) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "no message".to_owned());
        Err(Error::new(Code::Panic, format!("a panic was caught in the text library: {message}")))
    });
    match outcome {
        Ok(()) => 0,
        Err(failure) => {
            *error = TtBytes::new(failure.message.into_bytes());
            failure.code as i32
        }
    }
}

/// A slice of the caller's; an empty one may have any pointer.
unsafe fn borrow<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        slice::from_raw_parts(data, size)
    }
}

unsafe fn borrow_text<'a>(data: *const u8, size: usize, what: &str) -> Result<&'a str> {
    std::str::from_utf8(borrow(data, size)).map_err(|e| {
        let at = e.valid_up_to();
        Error::new(Code::Argument, format!("{what}: not valid UTF-8 at byte {at}"))
    })
}

/// # Safety
/// See tessera_text.h; this holds for every function below.
#[no_mangle]
pub unsafe extern "C" fn tt_tokenizer_new(
    json: *const u8,
    size: usize,
    settings: *const u8,
    settings_size: usize,
    out: *mut *mut TtTokenizer,
    error: *mut TtBytes,
) -> i32 {
    guard(error, || {
        let json = borrow(json, size);
        // Checked by itself first: the reference's own reader panics on some damaged files.
        serde_json::from_slice::<serde::de::IgnoredAny>(json)
            .map_err(|e| Error::new(Code::Damaged, format!("tokenizer.json: {e}")))?;
        let mut tokenizer = Tokenizer::from_bytes(json)
            .map_err(|e| Error::new(Code::Damaged, format!("tokenizer.json: {e}")))?;
        // Length limits are the scheduler's; the reference switches these off for a prompt as well.
        tokenizer
            .with_truncation(None)
            .map_err(|e| Error::new(Code::Damaged, format!("tokenizer.json: truncation: {e}")))?;
        tokenizer.with_padding(None);
        settings::apply(&mut tokenizer, borrow_text(settings, settings_size, "settings")?)?;
        let handle = TtTokenizer {
            encoder: Encoder::new(&tokenizer)?,
            controls: ControlTable::new(&tokenizer),
            pieces: Pieces::new(&tokenizer)?,
            tokenizer,
        };
        *out = Box::into_raw(Box::new(handle));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tt_tokenizer_free(tokenizer: *mut TtTokenizer) {
    if !tokenizer.is_null() {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(tokenizer))));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tt_encode(
    tokenizer: *const TtTokenizer,
    text: *const u8,
    text_size: usize,
    literal: *const u32,
    literal_size: usize,
    flags: u32,
    out: *mut TtIds,
    error: *mut TtBytes,
) -> i32 {
    guard(error, || {
        let handle = &*tokenizer;
        let text = borrow_text(text, text_size, "text")?;
        let controls = if flags & PARSE_CONTROL_TOKENS != 0 {
            Controls::Except(borrow(literal, literal_size))
        } else {
            Controls::Nowhere
        };
        let add_special = flags & ADD_SPECIAL_TOKENS != 0;
        let ids = handle.encoder.encode(&handle.tokenizer, text, add_special, controls)?;
        *out = TtIds::new(ids);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tt_decode(
    tokenizer: *const TtTokenizer,
    ids: *const u32,
    ids_size: usize,
    skip_special: u8,
    out: *mut TtBytes,
    error: *mut TtBytes,
) -> i32 {
    guard(error, || {
        let text = (*tokenizer)
            .tokenizer
            .decode(borrow(ids, ids_size), skip_special != 0)
            .map_err(|e| Error::new(Code::Argument, format!("decoding: {e}")))?;
        *out = TtBytes::new(text.into_bytes());
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tt_token_to_id(
    tokenizer: *const TtTokenizer,
    token: *const u8,
    token_size: usize,
    found: *mut u8,
    id: *mut u32,
    error: *mut TtBytes,
) -> i32 {
    guard(error, || {
        let token = borrow_text(token, token_size, "token")?;
        let known = (*tokenizer).tokenizer.token_to_id(token);
        *found = known.is_some() as u8;
        *id = known.unwrap_or(0);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tt_pieces(
    tokenizer: *const TtTokenizer,
    out: *mut TtPieces,
    error: *mut TtBytes,
) -> i32 {
    guard(error, || {
        let handle = &*tokenizer;
        let pieces = &handle.pieces;
        let (strip, strip_count) = pieces.plan.strip.unwrap_or((' ', 0));
        *out = TtPieces {
            bytes: pieces.bytes.as_ptr(),
            offsets: pieces.offsets.as_ptr(),
            kinds: pieces.kinds.as_ptr(),
            size: pieces.kinds.len(),
            token_count: handle.tokenizer.get_vocab_size(true),
            strip: strip as u32,
            strip_count: strip_count.min(u32::MAX as usize) as u32,
            joins_bytes: pieces.plan.joins_bytes as u8,
            first_differs: pieces.plan.first_differs as u8,
            spaced: pieces.plan.spaced as u8,
        };
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tt_template_new(
    source: *const u8,
    source_size: usize,
    special_tokens: *const u8,
    special_tokens_size: usize,
    limits: *const Limits,
    out: *mut *mut TtTemplate,
    error: *mut TtBytes,
) -> i32 {
    guard(error, || {
        let source = borrow_text(source, source_size, "chat template")?;
        let special_tokens = borrow_text(special_tokens, special_tokens_size, "special tokens")?;
        let template = Template::new(source, special_tokens, *limits)?;
        *out = Box::into_raw(Box::new(TtTemplate(template)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tt_template_free(template: *mut TtTemplate) {
    if !template.is_null() {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(template))));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tt_template_render(
    template: *const TtTemplate,
    tokenizer: *const TtTokenizer,
    input: *const u8,
    input_size: usize,
    now_unix_seconds: i64,
    text: *mut TtBytes,
    literal: *mut TtIds,
    error: *mut TtBytes,
) -> i32 {
    guard(error, || {
        let handle = &*tokenizer;
        let input = borrow_text(input, input_size, "chat template input")?;
        let rendered =
            (*template).0.render(&handle.tokenizer, &handle.controls, input, now_unix_seconds)?;
        *text = TtBytes::new(rendered.text.into_bytes());
        *literal = TtIds::new(rendered.literal);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tt_bytes_free(bytes: TtBytes) {
    if !bytes.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(bytes.data, bytes.size)));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tt_ids_free(ids: TtIds) {
    if !ids.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(ids.data, ids.size)));
    }
}
