//! Text -> ids. The reference tokenizer does everything except one step: finding the added tokens,
//! done here so that a control token can be refused where the text came from a user. With nothing
//! refused the ids equal the reference's.

use aho_corasick::{AhoCorasick, Input, MatchKind};
use regex::Regex;
use tokenizers::tokenizer::normalizer::Range;
use tokenizers::tokenizer::{
    AddedToken, Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer,
    Token, Tokenizer,
};

use crate::control::is_control;
use crate::error::{Code, Error, Result};

/// Where control tokens may be recognized.
#[derive(Clone, Copy)]
pub enum Controls<'a> {
    Nowhere,
    /// Everywhere but in matches that cover one of these byte offsets (ascending).
    Except(&'a [u32]),
}

struct Added {
    id: u32,
    token: AddedToken,
    control: bool,
}

/// All added tokens that are looked for in one form of the text: as it came, or normalized.
struct Matcher {
    search: AhoCorasick,
    added: Vec<Added>,
}

pub struct Encoder {
    raw: Option<Matcher>,
    normalized: Option<Matcher>,
    word: Regex,
}

impl Encoder {
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let vocabulary = tokenizer.get_added_vocabulary();
        let (mut raw, mut normalized) = (Vec::new(), Vec::new());
        let decoder = vocabulary.get_added_tokens_decoder();
        let mut ids: Vec<u32> = decoder.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let token = decoder[&id].clone();
            let control = is_control(&token);
            if token.normalized {
                let mut pattern = NormalizedString::from(token.content.as_str());
                if let Some(normalizer) = tokenizer.get_normalizer() {
                    normalizer.normalize(&mut pattern).map_err(|e| {
                        Error::new(Code::Damaged, format!("tokenizer.json: normalizer: {e}"))
                    })?;
                }
                normalized.push((pattern.get().to_owned(), Added { id, token, control }));
            } else {
                raw.push((token.content.clone(), Added { id, token, control }));
            }
        }
        let word = Regex::new(r"^\w$").map_err(|e| Error::new(Code::Damaged, e.to_string()))?;
        Ok(Encoder { raw: Matcher::new(raw)?, normalized: Matcher::new(normalized)?, word })
    }

    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        add_special: bool,
        controls: Controls,
    ) -> Result<Vec<u32>> {
        let failed = |e: tokenizers::Error| Error::new(Code::Argument, format!("tokenizing: {e}"));
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, piece| self.split(self.raw.as_ref(), piece, controls)).map_err(failed)?;
        pieces
            .split(|_, mut piece| {
                if let Some(normalizer) = tokenizer.get_normalizer() {
                    normalizer.normalize(&mut piece)?;
                }
                self.split(self.normalized.as_ref(), piece, controls)
            })
            .map_err(failed)?;
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        pieces.tokenize(|piece| tokenizer.get_model().tokenize(piece.get())).map_err(failed)?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None).map_err(failed)?;
        let encoding = tokenizer.post_process(encoding, None, add_special).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Cuts a piece at the added tokens in it.
    fn split(
        &self,
        matcher: Option<&Matcher>,
        piece: NormalizedString,
        controls: Controls,
    ) -> tokenizers::Result<Vec<(NormalizedString, Option<Vec<Token>>)>> {
        let Some(matcher) = matcher else {
            return Ok(vec![(piece, None)]);
        };
        let slice = |start: usize, end: usize| {
            piece
                .slice(Range::Normalized(start..end))
                .ok_or_else(|| tokenizers::Error::from("an added token cuts a character"))
        };
        let text = piece.get();
        let mut parts = Vec::new();
        let (mut done, mut from) = (0, 0);
        while let Some(found) = matcher.search.find(Input::new(text).range(from..)) {
            let added = &matcher.added[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            if !self.accepts(added, &piece, start, end, controls) {
                from = start + text[start..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            if added.token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if added.token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < start {
                parts.push((slice(done, start)?, None));
            }
            let token = Token::new(added.id, text[start..end].to_owned(), (0, end - start));
            parts.push((slice(start, end)?, Some(vec![token])));
            done = end;
            from = end;
        }
        if done < text.len() {
            parts.push((slice(done, text.len())?, None));
        }
        Ok(parts)
    }

    fn accepts(
        &self,
        added: &Added,
        piece: &NormalizedString,
        start: usize,
        end: usize,
        controls: Controls,
    ) -> bool {
        let text = piece.get();
        if added.token.single_word
            && (text[..start].chars().next_back().is_some_and(|c| self.is_word(c))
                || text[end..].chars().next().is_some_and(|c| self.is_word(c)))
        {
            return false;
        }
        match controls {
            _ if !added.control => true,
            Controls::Nowhere => false,
            Controls::Except(offsets) => {
                let shift = piece.offsets_original().0;
                let Some(range) = piece.convert_offsets(Range::Normalized(start..end)) else {
                    return offsets.is_empty();
                };
                let first = offsets.partition_point(|&at| (at as usize) < range.start + shift);
                offsets.get(first).is_none_or(|&at| at as usize >= range.end + shift)
            }
        }
    }

    fn is_word(&self, c: char) -> bool {
        self.word.is_match(c.encode_utf8(&mut [0; 4]))
    }
}

impl Matcher {
    fn new(patterns: Vec<(String, Added)>) -> Result<Option<Self>> {
        let (texts, added): (Vec<_>, Vec<_>) =
            patterns.into_iter().filter(|(text, _)| !text.is_empty()).unzip();
        if texts.is_empty() {
            return Ok(None);
        }
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&texts)
            .map_err(|e| Error::new(Code::Damaged, format!("tokenizer.json: added tokens: {e}")))?;
        Ok(Some(Matcher { search, added }))
    }
}
