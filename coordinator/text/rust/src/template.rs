//! Chat templates, with the environment that the reference gives them. Rendering is bounded:
//! template bytes, instructions (fuel) and output bytes. A template is trusted with the
//! conversation, the strings of the conversation are not trusted: `render` says which of them must
//! stay text (see control.rs).

use std::io;

use minijinja::value::{Kwargs, Value as Jinja};
use minijinja::{AutoEscape, Environment, ErrorKind};
use regex::Regex;
use serde_json::{Map, Value};
use tokenizers::tokenizer::Tokenizer;

use crate::control::{ControlTable, Level, Marker};
use crate::error::{Code, Error, Result};
use crate::python::{self, JsonStyle};

/// Longest result of one strftime_now call, bytes.
const STRFTIME_BYTES_MAX: usize = 512;
/// A sentinel is four bytes behind a character of at least one.
const MARKED_GROWTH: usize = 5;
const NAME: &str = "chat_template";

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Limits {
    pub template_bytes: u64,
    pub fuel: u64,
    pub output_bytes: u64,
}

pub struct Template {
    environment: Environment<'static>,
    /// bos_token and the like: trusted, never marked.
    special_tokens: Map<String, Value>,
    limits: Limits,
}

pub struct Rendered {
    pub text: String,
    /// Byte offsets (ascending) of characters that no control token may cover.
    pub literal: Vec<u32>,
}

impl Template {
    pub fn new(source: &str, special_tokens: &str, limits: Limits) -> Result<Self> {
        if source.len() as u64 > limits.template_bytes {
            return Err(Error::new(
                Code::Limit,
                format!(
                    "chat template: {} bytes are over the limit of {}",
                    source.len(),
                    limits.template_bytes
                ),
            ));
        }
        let special_tokens = parse_object(special_tokens, "special tokens")?;
        let mut environment = new_environment();
        environment.set_fuel(Some(limits.fuel));
        environment
            .add_template_owned(NAME, without_generation_tags(source)?)
            .map_err(|e| Error::new(Code::Damaged, format!("chat template: {e:#}")))?;
        Ok(Template { environment, special_tokens, limits })
    }

    /// `input`: a JSON object with messages, tools, add_generation_prompt and whatever else the
    /// template reads. `now`: seconds since 1970, for strftime_now (UTC).
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        controls: &ControlTable,
        input: &str,
        now: i64,
    ) -> Result<Rendered> {
        let input = parse_object(input, "chat template input")?;
        let text = self.render_once(&input, now, self.limits.output_bytes)?;
        let mut texts: Vec<&str> = vec![&text];
        for (key, value) in &input {
            texts.push(key);
            collect(value, &mut texts);
        }
        let mut marker = Marker::new(controls, tokenizer, &texts).ok_or_else(|| {
            Error::new(Code::Limit, "chat template: the conversation uses all reserved characters")
        })?;
        let mut last = None;
        for &level in controls.levels() {
            marker.marks = 0;
            let marked_input = mark_fields(&mut marker, &input, level);
            if marker.marks == 0 && level == Level::Every {
                return Ok(Rendered { text, literal: Vec::new() });
            }
            let bytes = self.limits.output_bytes.saturating_mul(MARKED_GROWTH as u64);
            let marked = self.render_once(&marked_input, now, bytes);
            last = Some(marked.map(|marked| marker.unmark(&marked)));
            if let Some(Ok((unmarked, literal))) = &mut last {
                if *unmarked == text {
                    return Ok(Rendered { text, literal: std::mem::take(literal) });
                }
            }
        }
        // The template looks for a control token inside the content. Its answer on the marked
        // conversation stands: there such text is no control token.
        let (text, literal) = last.unwrap_or_else(|| Ok((text, Vec::new())))?;
        if text.len() as u64 > self.limits.output_bytes {
            return Err(too_long(self.limits.output_bytes));
        }
        Ok(Rendered { text, literal })
    }

    fn render_once(&self, input: &Map<String, Value>, now: i64, bytes_max: u64) -> Result<String> {
        let mut context: Vec<(String, Jinja)> = Vec::new();
        for (key, value) in self.special_tokens.iter().chain(input) {
            context.push((key.clone(), Jinja::from_serialize(value)));
        }
        for optional in ["tools", "documents"] {
            if !input.contains_key(optional) {
                context.push((optional.to_owned(), Jinja::from(())));
            }
        }
        if !input.contains_key("add_generation_prompt") {
            context.push(("add_generation_prompt".to_owned(), Jinja::from(false)));
        }
        let clock = move |format: &str| strftime(format, now);
        context.push(("strftime_now".to_owned(), Jinja::from_function(clock)));

        let template = self
            .environment
            .get_template(NAME)
            .map_err(|e| Error::new(Code::Damaged, format!("chat template: {e:#}")))?;
        let mut out = Bounded { bytes: Vec::new(), bytes_max, overflow: false };
        let context: Jinja = context.into_iter().collect();
        match template.render_captured_to(context, &mut out) {
            Ok(_) => String::from_utf8(out.bytes)
                .map_err(|_| Error::new(Code::Template, "chat template: wrote broken UTF-8")),
            Err(_) if out.overflow => Err(too_long(self.limits.output_bytes)),
            Err(error) if is_out_of_fuel(&error) => Err(Error::new(
                Code::Limit,
                format!("chat template: ran over the limit of {} instructions", self.limits.fuel),
            )),
            Err(error) => Err(Error::new(Code::Template, format!("chat template: {error:#}"))),
        }
    }
}

fn too_long(limit: u64) -> Error {
    Error::new(Code::Limit, format!("chat template: the prompt is over the limit of {limit} bytes"))
}

fn is_out_of_fuel(error: &minijinja::Error) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = next {
        let jinja = current.downcast_ref::<minijinja::Error>();
        if jinja.is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return true;
        }
        next = current.source();
    }
    false
}

fn parse_object(json: &str, what: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(json) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Error::new(Code::Argument, format!("{what}: not a JSON object"))),
        Err(e) => Err(Error::new(Code::Argument, format!("{what}: {e}"))),
    }
}

/// Marks the values of the top-level fields. Their names are variables of the template and stay.
fn mark_fields(
    marker: &mut Marker,
    input: &Map<String, Value>,
    level: Level,
) -> Map<String, Value> {
    input.iter().map(|(key, value)| (key.clone(), marker.mark(value, level))).collect()
}

fn collect<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, texts)),
        Value::Object(fields) => fields.iter().for_each(|(key, item)| {
            texts.push(key);
            collect(item, texts);
        }),
        _ => {}
    }
}

/// `{% generation %}` only matters for training; as a plain scope it renders the same.
fn without_generation_tags(source: &str) -> Result<String> {
    let tag = |name: &str| {
        Regex::new(&format!(r"\{{%([-+]?)\s*{name}\s*([-+]?)%\}}"))
            .map_err(|e| Error::new(Code::Damaged, e.to_string()))
    };
    let opened = tag("generation")?.replace_all(source, "{%$1 with $2%}");
    let closed = tag("endgeneration")?.replace_all(&opened, "{%$1 endwith $2%}");
    Ok(closed.into_owned())
}

fn new_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python::unknown_method);
    environment.set_formatter(|out, _state, value| {
        if let Some(text) = value.as_str() {
            return out.write_str(text).map_err(minijinja::Error::from);
        }
        if value.is_undefined() {
            return Ok(());
        }
        let mut text = String::new();
        python::write_str(&mut text, value, 0)?;
        out.write_str(&text).map_err(minijinja::Error::from)
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter(
        "trim",
        |value: Jinja, chars: Option<String>| -> std::result::Result<String, minijinja::Error> {
            Ok(python::strip(&shown(&value)?, chars.as_deref(), true, true).to_owned())
        },
    );
    environment.add_filter(
        "string",
        |value: Jinja| -> std::result::Result<Jinja, minijinja::Error> {
            if value.as_str().is_some() {
                return Ok(value);
            }
            Ok(Jinja::from(shown(&value)?))
        },
    );
    let raise = |message: String| -> std::result::Result<Jinja, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    };
    environment.add_function("raise_exception", raise);
    environment
}

/// The text that a value is where a text is wanted.
fn shown(value: &Jinja) -> std::result::Result<String, minijinja::Error> {
    let mut text = String::new();
    match value.as_str() {
        Some(string) => text.push_str(string),
        None if value.is_undefined() => {}
        None => python::write_str(&mut text, value, 0)?,
    }
    Ok(text)
}

fn tojson(value: &Jinja, kwargs: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let indent: Option<Jinja> = kwargs.get("indent")?;
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
    });
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let mut separators = separators.unwrap_or_default().into_iter();
    let item_default = if indent.is_some() { "," } else { ", " };
    let style = JsonStyle {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item_separator: separators.next().unwrap_or_else(|| item_default.to_owned()),
        key_separator: separators.next().unwrap_or_else(|| ": ".to_owned()),
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    style.write(&mut out, value, 0)?;
    Ok(out)
}

/// strftime of the C library, as Python's: `now` is seconds since 1970, shown in UTC.
fn strftime(format: &str, now: i64) -> std::result::Result<String, minijinja::Error> {
    let fail = |why: &str| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {why}"))
    };
    if format.is_empty() {
        return Ok(String::new());
    }
    let format = std::ffi::CString::new(format).map_err(|_| fail("the format holds a NUL"))?;
    let seconds = now as libc::time_t;
    let mut buffer = [0u8; STRFTIME_BYTES_MAX];
    // SAFETY: tm is plain data, filled by gmtime_r before use; buffer and format outlive the call,
    // and strftime writes at most buffer.len() bytes.
    let written = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        if libc::gmtime_r(&seconds, &mut tm).is_null() {
            return Err(fail("the time is out of range"));
        }
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &tm)
    };
    if written == 0 {
        return Err(fail("the result is empty or too long"));
    }
    String::from_utf8(buffer[..written].to_vec()).map_err(|_| fail("the result is not UTF-8"))
}

/// Output that refuses to grow over its limit.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: u64,
    overflow: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + data.len()) as u64 > self.bytes_max {
            self.overflow = true;
            return Err(io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
