//! Which added tokens are control tokens, and the marks that keep text of a conversation from
//! becoming one.
//!
//! A control token is an added token that is `special`, or whose content has the shape `<|...|>`
//! (some model makers leave their turn markers un-special). They may come from the template, never
//! from strings of the conversation. Every control token has a pivot: a character that cannot be
//! left out of it. A sentinel (a private-use character that occurs nowhere else) is put behind the
//! pivots inside the conversation's strings; it survives trimming, splitting and joining, and is
//! taken out after rendering, leaving the byte offsets at which no control token may match.

use std::collections::{HashMap, HashSet};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use tokenizers::tokenizer::{AddedToken, NormalizedString, Normalizer, Tokenizer};

/// Private-use characters tried as sentinel, in order.
const SENTINELS: std::ops::Range<u32> = 0xF0000..0xF0100;

pub fn is_control(token: &AddedToken) -> bool {
    let content = token.content.as_str();
    let shaped = |open: &str, close: &str| {
        content.len() > open.len() + close.len()
            && content.starts_with(open)
            && content.ends_with(close)
    };
    token.special || shaped("<|", "|>") || shaped("<\u{ff5c}", "\u{ff5c}>")
}

/// How much of a string is marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Every pivot: nothing can be assembled from pieces.
    Every,
    /// Whole look-alikes, and what could begin one at the end of a string. For templates that
    /// themselves look for a pivot inside the content.
    LookAlikes,
}

#[derive(Clone)]
pub struct ControlTable {
    contents: Vec<String>,
    pivots: HashSet<char>,
    /// ASCII characters that are, or are normalized into, a pivot.
    ascii: [bool; 128],
    /// Some control token is matched after normalization, so that other characters may turn into a
    /// pivot.
    normalized: bool,
}

impl ControlTable {
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let mut contents = Vec::new();
        let mut normalized = false;
        for token in tokenizer.get_added_vocabulary().get_added_tokens_decoder().values() {
            if is_control(token) {
                normalized |= token.normalized && tokenizer.get_normalizer().is_some();
                contents.push(token.content.clone());
            }
        }
        contents.sort();
        let pivots = contents.iter().map(|content| pivot(content)).collect();
        let mut table = ControlTable { contents, pivots, ascii: [false; 128], normalized };
        for code in 0..128u8 {
            table.ascii[code as usize] = table.becomes_pivot(tokenizer, code as char);
        }
        table
    }

    /// The levels to try, most thorough first. A look-alike that only appears after normalization
    /// cannot be searched for in the raw string, so such tokenizers know only `Every`.
    pub fn levels(&self) -> &'static [Level] {
        if self.normalized {
            &[Level::Every]
        } else {
            &[Level::Every, Level::LookAlikes]
        }
    }

    fn becomes_pivot(&self, tokenizer: &Tokenizer, c: char) -> bool {
        if self.pivots.contains(&c) {
            return true;
        }
        let Some(normalizer) = tokenizer.get_normalizer().filter(|_| self.normalized) else {
            return false;
        };
        let mut text = NormalizedString::from(c.to_string());
        normalizer.normalize(&mut text).is_ok()
            && text.get().chars().any(|n| self.pivots.contains(&n))
    }
}

/// The rarest-looking character of a control token: a bar, else punctuation, else its first
/// character.
fn pivot(content: &str) -> char {
    content
        .chars()
        .find(|c| matches!(c, '|' | '\u{ff5c}'))
        .or_else(|| content.chars().find(|c| !c.is_alphanumeric() && !c.is_whitespace()))
        .or_else(|| content.chars().next())
        .unwrap_or('<')
}

/// Puts sentinels into the strings of one conversation.
pub struct Marker<'a> {
    table: &'a ControlTable,
    tokenizer: &'a Tokenizer,
    sentinel: char,
    search: Option<AhoCorasick>,
    wide: HashMap<char, bool>,
    pub marks: usize,
}

impl<'a> Marker<'a> {
    /// None if every candidate sentinel occurs in `texts` already.
    pub fn new(table: &'a ControlTable, tokenizer: &'a Tokenizer, texts: &[&str]) -> Option<Self> {
        let used: HashSet<char> = texts
            .iter()
            .flat_map(|text| text.chars())
            .filter(|c| SENTINELS.contains(&(*c as u32)))
            .collect();
        let sentinel = SENTINELS.filter_map(char::from_u32).find(|c| !used.contains(c))?;
        let search =
            AhoCorasick::builder().match_kind(MatchKind::Standard).build(&table.contents).ok();
        Some(Marker { table, tokenizer, sentinel, search, wide: HashMap::new(), marks: 0 })
    }

    /// A marked copy of a value: every string in it, and every key of its objects.
    pub fn mark(&mut self, value: &Value, level: Level) -> Value {
        match value {
            Value::String(text) => Value::String(self.mark_text(text, level)),
            Value::Array(items) => items.iter().map(|item| self.mark(item, level)).collect(),
            Value::Object(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(key, item)| (self.mark_text(key, level), self.mark(item, level)))
                    .collect(),
            ),
            other => other.clone(),
        }
    }

    fn mark_text(&mut self, text: &str, level: Level) -> String {
        let look_alikes = match level {
            Level::Every => HashSet::new(),
            Level::LookAlikes => self.look_alikes(text),
        };
        let mut out = String::with_capacity(text.len() + 16);
        for (at, c) in text.char_indices() {
            out.push(c);
            let marked = match level {
                Level::Every => self.is_pivot(c),
                Level::LookAlikes => look_alikes.contains(&at),
            };
            if marked {
                out.push(self.sentinel);
                self.marks += 1;
            }
        }
        out
    }

    fn is_pivot(&mut self, c: char) -> bool {
        if c.is_ascii() {
            return self.table.ascii[c as usize];
        }
        let (table, tokenizer) = (self.table, self.tokenizer);
        *self.wide.entry(c).or_insert_with(|| table.becomes_pivot(tokenizer, c))
    }

    /// Byte offsets where a control token begins in `text`, or could begin if other text followed
    /// its end.
    fn look_alikes(&self, text: &str) -> HashSet<usize> {
        let mut starts = HashSet::new();
        if let Some(search) = &self.search {
            starts.extend(search.find_overlapping_iter(text).map(|m| m.start()));
        }
        let trimmed = text.trim_end();
        for content in &self.table.contents {
            for (length, _) in content.char_indices().skip(1) {
                if trimmed.ends_with(&content[..length]) {
                    starts.insert(trimmed.len() - length);
                }
            }
        }
        starts
    }

    /// Takes the sentinels out again. Returns the text and the byte offsets of the characters they
    /// followed.
    pub fn unmark(&self, marked: &str) -> (String, Vec<u32>) {
        let mut text = String::with_capacity(marked.len());
        let mut offsets = Vec::new();
        let mut last = 0;
        for c in marked.chars() {
            if c == self.sentinel {
                offsets.push(last as u32);
            } else {
                last = text.len();
                text.push(c);
            }
        }
        offsets.dedup();
        (text, offsets)
    }
}
