//! The one error type of the crate: a code that the C++ side maps to absl::StatusCode, and a
//! sentence that names what was met. Shown to operators, so it never contains more than a short
//! quote of input.

use std::fmt;

/// Same numbers as `tt_status` in tessera_text.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// What the caller passed in is wrong (bad UTF-8, bad JSON).
    Argument = 1,
    /// A model file is damaged or of a kind that is not supported.
    Damaged = 2,
    /// A limit was hit; the message names it.
    Limit = 3,
    /// The template itself refused the conversation, or failed on it.
    Template = 4,
    /// A panic inside a library was caught at the edge.
    Panic = 5,
}

#[derive(Debug)]
pub struct Error {
    pub code: Code,
    pub message: String,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

pub type Result<T> = std::result::Result<T, Error>;
