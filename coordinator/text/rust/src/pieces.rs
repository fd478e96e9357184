//! Ids -> text, cut into one piece per id, so that a stream can be decoded token by token without
//! asking the library again. The rules between pieces (joining, byte runs, what is stripped at the
//! start) are in `Plan`. A decoder that does not fit these rules is refused when the tokenizer is
//! loaded.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::tokenizer::{Decoder, Tokenizer};

use crate::error::{Code, Error, Result};

/// Ids above this are refused: the table would be mostly holes. Same as TT_VOCABULARY_MAX.
pub const VOCABULARY_MAX: u32 = 1 << 22;

/// Same numbers as `tt_piece_kind`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Absent = 0,
    /// The piece is what the token adds to the text.
    Text = 1,
    /// The piece is one byte of a run of byte tokens (`<0xE4>`).
    Byte = 2,
}

pub const SPECIAL: u8 = 0x80;

#[derive(Default, Clone)]
pub struct Plan {
    /// The bytes of all pieces are joined first, then read as UTF-8 (byte-level BPE).
    pub joins_bytes: bool,
    /// At most `strip_count` of this character vanish at the start of the text.
    pub strip: Option<(char, usize)>,
    /// The first token of a text is decoded differently (Metaspace): ask the library for it.
    pub first_differs: bool,
    /// A blank stands between tokens (no decoder at all).
    pub spaced: bool,
    byte_runs: bool,
    fused: bool,
    each: Vec<DecoderWrapper>,
    /// What stands for a blank in the vocabulary, for Metaspace.
    blank: Option<char>,
}

pub struct Pieces {
    pub bytes: Vec<u8>,
    /// Piece i is bytes[offsets[i]..offsets[i + 1]].
    pub offsets: Vec<u32>,
    /// `Kind`, with `SPECIAL` added for special tokens.
    pub kinds: Vec<u8>,
    pub plan: Plan,
}

impl Plan {
    fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let mut plan = Plan::default();
        match tokenizer.get_decoder() {
            None => plan.spaced = true,
            Some(decoder) => plan.add(decoder)?,
        }
        Ok(plan)
    }

    fn add(&mut self, decoder: &DecoderWrapper) -> Result<()> {
        let per_token = !self.byte_runs && !self.fused;
        match decoder {
            DecoderWrapper::Sequence(sequence) => {
                for inner in sequence.get_decoders() {
                    self.add(inner)?;
                }
            }
            DecoderWrapper::Replace(_) if per_token => self.each.push(decoder.clone()),
            DecoderWrapper::Strip(strip) if per_token && strip.stop == 0 => {
                self.each.push(decoder.clone())
            }
            DecoderWrapper::Strip(strip)
                if self.fused && strip.stop == 0 && self.strip.is_none() =>
            {
                self.strip = Some((strip.content, strip.start));
            }
            DecoderWrapper::ByteFallback(_) if per_token => self.byte_runs = true,
            DecoderWrapper::Fuse(_) => self.fused = true,
            DecoderWrapper::ByteLevel(_) if per_token => {
                self.joins_bytes = true;
                self.fused = true;
            }
            DecoderWrapper::Metaspace(metaspace) if !self.fused && self.blank.is_none() => {
                self.blank = Some(metaspace.get_replacement());
                self.first_differs = metaspace.get_prepend_scheme() != PrependScheme::Never;
            }
            other => {
                let name = format!("{other:?}");
                let name = name.split(['(', ' ']).next().unwrap_or("?");
                return Err(Error::new(
                    Code::Damaged,
                    format!(
                        "tokenizer.json: decoder {name} at this place cannot be streamed; supported: \
                         ByteLevel, Metaspace, sequences of Replace, ByteFallback, Fuse, Strip"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn piece(&self, token: String) -> Result<(Kind, Vec<u8>)> {
        let mut text = token;
        for decoder in &self.each {
            text = decoder
                .decode_chain(vec![text])
                .map_err(|e| Error::new(Code::Damaged, format!("tokenizer.json: decoder: {e}")))?
                .concat();
        }
        if self.joins_bytes {
            let bytes: Option<Vec<u8>> = text.chars().map(byte_of).collect();
            return Ok((Kind::Text, bytes.unwrap_or_else(|| text.into_bytes())));
        }
        if self.byte_runs && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>') {
            if let Some(byte) = text.get(3..5).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                return Ok((Kind::Byte, vec![byte]));
            }
        }
        if let Some(blank) = self.blank {
            text = text.replace(blank, " ");
        }
        Ok((Kind::Text, text.into_bytes()))
    }
}

impl Pieces {
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let plan = Plan::new(tokenizer)?;
        let size = tokenizer.get_vocab(true).values().max().map_or(0, |&id| u64::from(id) + 1);
        if size > u64::from(VOCABULARY_MAX) {
            return Err(Error::new(
                Code::Limit,
                format!(
                    "tokenizer.json: token id {} is over the limit of {VOCABULARY_MAX}",
                    size - 1
                ),
            ));
        }
        let mut pieces = Pieces {
            bytes: Vec::new(),
            offsets: vec![0],
            kinds: Vec::with_capacity(size as usize),
            plan,
        };
        let vocabulary = tokenizer.get_added_vocabulary();
        for id in 0..size as u32 {
            let token = vocabulary.simple_id_to_token(id).or_else(|| tokenizer.id_to_token(id));
            let kind = match token {
                None => Kind::Absent as u8,
                Some(token) => {
                    let special = if vocabulary.is_special_token(&token) { SPECIAL } else { 0 };
                    let (kind, bytes) = pieces.plan.piece(token)?;
                    pieces.bytes.extend(bytes);
                    kind as u8 | special
                }
            };
            pieces.kinds.push(kind);
            pieces.offsets.push(pieces.bytes.len() as u32);
        }
        Ok(pieces)
    }
}

/// The byte that a character of a byte-level vocabulary stands for: printable Latin-1 characters
/// stand for themselves, the other 68 bytes are numbered upwards from U+0100.
fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}
