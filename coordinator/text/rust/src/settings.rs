//! What the reference's tokenizer class changes about tokenizer.json after reading it: tokens that
//! tokenizer_config.json lists or names, the begin and end token that some classes write
//! themselves, and the blank before a text.

use serde::Deserialize;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::{AddedToken, Tokenizer};

use crate::error::{Code, Error, Result};

#[derive(Deserialize)]
struct Settings {
    listed: Vec<Token>,
    /// bos_token, eos_token and the like.
    special: Vec<Token>,
    written: Option<Written>,
    /// None: as tokenizer.json has it.
    add_prefix_space: Option<bool>,
}

#[derive(Deserialize)]
struct Token {
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Deserialize)]
struct Written {
    bos: Option<String>,
    eos: Option<String>,
}

impl Token {
    fn added(&self, special: bool) -> AddedToken {
        AddedToken {
            content: self.content.clone(),
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized,
            special,
        }
    }
}

/// `json`: see TokenizerSettings::changes; empty for a tokenizer.json by itself.
pub fn apply(tokenizer: &mut Tokenizer, json: &str) -> Result<()> {
    if json.is_empty() {
        return Ok(());
    }
    let settings: Settings = serde_json::from_str(json)
        .map_err(|e| Error::new(Code::Argument, format!("tokenizer settings: {e}")))?;
    add_tokens(tokenizer, &settings);
    if let Some(written) = &settings.written {
        write_ends(tokenizer, written)?;
    }
    if let (Some(wanted), Some(PreTokenizerWrapper::ByteLevel(level))) =
        (settings.add_prefix_space, tokenizer.get_pre_tokenizer())
    {
        if level.add_prefix_space != wanted {
            let changed = level.clone().add_prefix_space(wanted);
            tokenizer.with_pre_tokenizer(Some(changed));
        }
    }
    Ok(())
}

/// Listed tokens that differ from tokenizer.json's replace them; new ones get the next ids. Named
/// ones are added where nobody has them.
fn add_tokens(tokenizer: &mut Tokenizer, settings: &Settings) {
    let is_named = |content: &str| settings.special.iter().any(|token| token.content == content);
    let present = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let mut known: Vec<&str> = present.values().map(|token| token.content.as_str()).collect();
    let mut tokens: Vec<AddedToken> = Vec::new();
    for token in &settings.listed {
        let as_listed = token.added(token.special);
        if present.values().any(|other| *other == as_listed) {
            continue;
        }
        tokens.push(token.added(token.special || is_named(&token.content)));
        known.push(&token.content);
    }
    for token in &settings.special {
        if !known.contains(&token.content.as_str()) {
            tokens.push(token.added(true));
            known.push(&token.content);
        }
    }
    if !tokens.is_empty() {
        tokenizer.add_tokens(&tokens);
    }
}

fn write_ends(tokenizer: &mut Tokenizer, written: &Written) -> Result<()> {
    let failed = |e: String| Error::new(Code::Damaged, format!("begin and end token: {e}"));
    let mut pieces = Vec::new();
    let mut special = Vec::new();
    let mut write = |pieces: &mut Vec<String>, token: &Option<String>| {
        if let Some(token) = token {
            pieces.push(format!("{token}:0"));
            special.push((token.clone(), tokenizer.token_to_id(token).unwrap_or(0)));
        }
    };
    write(&mut pieces, &written.bos);
    pieces.push("$A:0".to_owned());
    write(&mut pieces, &written.eos);
    let processor = TemplateProcessing::builder()
        .try_single(pieces)
        .map_err(|e| failed(e.to_string()))?
        .special_tokens(special)
        .build()
        .map_err(|e| failed(e.to_string()))?;
    tokenizer.with_post_processor(Some(processor));
    Ok(())
}
