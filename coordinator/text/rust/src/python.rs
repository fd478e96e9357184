//! What a template sees of Python: JSON as json.dumps writes it, values as str() shows them, and
//! the methods of str where the compatibility crate differs from Python on blanks and non-ASCII
//! text.

use std::fmt::Write;

use minijinja::value::{from_args, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Nesting of a value that is written out. serde_json refuses deeper input already.
const DEPTH_MAX: usize = 200;

pub struct JsonStyle {
    pub ensure_ascii: bool,
    pub sort_keys: bool,
    /// What one level of indentation is; None: everything on one line.
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
}

fn unsupported(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

impl JsonStyle {
    pub fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(unsupported(format!("tojson: more than {DEPTH_MAX} levels")));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value, ("NaN", "Infinity", "-Infinity"))),
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items(out, ('[', ']'), items.len(), depth, |out, at| {
                    self.write(out, &items[at], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.write_items(out, ('{', '}'), keys.len(), depth, |out, at| {
                    self.write_string(out, &keys[at].to_string());
                    out.push_str(&self.key_separator);
                    self.write(out, &value.get_item(&keys[at])?, depth + 1)
                })?;
            }
            other => return Err(unsupported(format!("tojson: {other} is not JSON serializable"))),
        }
        Ok(())
    }

    fn write_items(
        &self,
        out: &mut String,
        (open, close): (char, char),
        count: usize,
        depth: usize,
        mut item: impl FnMut(&mut String, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |out: &mut String, levels: usize| {
            if let Some(indent) = self.indent.as_ref().filter(|_| count > 0) {
                out.push('\n');
                (0..levels).for_each(|_| out.push_str(indent));
            }
        };
        out.push(open);
        for at in 0..count {
            if at > 0 {
                out.push_str(&self.item_separator);
            }
            line(out, depth + 1);
            item(out, at)?;
        }
        line(out, depth);
        out.push(close);
        Ok(())
    }

    fn write_string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ensure_ascii && (c as u32) > 0x7E) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A number as Python writes it; `special` names not-a-number and the infinities.
fn number(value: &Value, special: (&str, &str, &str)) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(x) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    if x.is_nan() {
        return special.0.to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { special.1 } else { special.2 }.to_owned();
    }
    // Shortest digits that read back as the same number; Python turns to an exponent below 1e-4 and
    // from 1e16.
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{x:?}")
}

/// What `{{ value }}` prints: str(value) of Python.
pub fn write_str(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(unsupported(format!("printing a value of more than {DEPTH_MAX} levels")));
    }
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value, ("nan", "inf", "-inf"))),
        ValueKind::String if depth > 0 => write_repr(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            out.push('[');
            for (at, item) in value.try_iter()?.enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write_str(out, &item, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (at, key) in value.try_iter()?.enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write_str(out, &key, depth + 1)?;
                out.push_str(": ");
                write_str(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

fn write_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || (0x7F..0xA1).contains(&(c as u32)) || c as u32 == 0xAD => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// str.isspace: Unicode white space and the four ASCII separators, which Unicode does not count.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The part of `text` that strip (both), lstrip (left) or rstrip (right) leaves.
pub fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let stripped = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(stripped) } else { text };
    if right {
        text.trim_end_matches(stripped)
    } else {
        text
    }
}

/// Methods that minijinja does not know: ours first, then the compatibility crate.
pub fn unknown_method(
    state: &State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, method, args);
    };
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Ok(Value::from(strip(text, chars, method != "rstrip", method != "lstrip")))
        }
        "split" if args.is_empty() || (args.len() == 1 && args[0].is_none()) => {
            Ok(text.split(is_space).filter(|part| !part.is_empty()).map(Value::from).collect())
        }
        "find" | "rfind" => {
            let (what,): (&str,) = from_args(args)?;
            let at = if method == "find" { text.find(what) } else { text.rfind(what) };
            Ok(Value::from(at.map_or(-1, |at| text[..at].chars().count() as i64)))
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let rest = if method == "removeprefix" {
                text.strip_prefix(part)
            } else {
                text.strip_suffix(part)
            };
            Ok(Value::from(rest.unwrap_or(text)))
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}
