//! What we do to JSON text without understanding it: check it, put it on one
//! line, take its white space away, compare it, and change its strings.
//!
//! Owns everything that treats JSON as text. Does not own shapes: structs that are read and written live in `wire`, and
//! what a field means is decided there and in `api`.

mod fingerprint;
pub mod quote;
mod scan;
#[cfg(test)]
mod tests;

use crate::model::RawJson;
use memchr::memchr2_iter;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

pub use fingerprint::FingerprintBuilder;
pub use quote::{string, write_string};

/// How deep arrays and objects may nest.
pub const MAX_DEPTH: usize = 128;

/// Why some bytes are not one JSON value. Says where, and never what: the input may hold secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotJson {
    /// Nothing but white space.
    #[error("empty")]
    Empty,
    /// Not UTF-8.
    #[error("not UTF-8 from byte {at} on")]
    Utf8 {
        /// The number of bytes before the first wrong one.
        at: usize,
    },
    /// More levels than this.
    #[error("nested deeper than {0} levels")]
    Depth(usize),
    /// Cut off, followed by something else, or not JSON at all.
    #[error("syntax error at line {line}, column {column}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The byte in that line, from 1; 0 is the line break before it.
        column: usize,
    },
}

/// Checks that the bytes are exactly one JSON value in UTF-8, of at most [`MAX_DEPTH`] levels, and returns its text
/// without the white space around it. A byte order mark is skipped.
pub fn check(bytes: &[u8]) -> Result<&str, NotJson> {
    check_within(bytes, MAX_DEPTH)
}

/// As [`check`], with another limit on the levels; one above [`MAX_DEPTH`] counts as that.
pub fn check_within(bytes: &[u8], levels: usize) -> Result<&str, NotJson> {
    let levels = levels.min(MAX_DEPTH);
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| NotJson::Utf8 { at: error.valid_up_to() })?;
    if text.trim_ascii().is_empty() {
        return Err(NotJson::Empty);
    }
    // Before the syntax, whose check takes memory for every level.
    if is_deeper(text.as_bytes(), levels) {
        return Err(NotJson::Depth(levels));
    }
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => Ok(raw.get()),
        Err(error) => Err(NotJson::Syntax { line: error.line(), column: error.column() }),
    }
}

fn is_deeper(text: &[u8], levels: usize) -> bool {
    // Most texts have not that many brackets, strings and all.
    if memchr2_iter(b'{', b'[', text).nth(levels).is_none() {
        return false;
    }
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at = scan::string_end(text, at).0,
            b'{' | b'[' => {
                depth += 1;
                if depth > levels {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    false
}

/// A JSON value, which the caller has [checked](check), in memory. JSON allows what Rust's strings and floats cannot
/// hold, and JavaScript sends it: half a surrogate pair becomes U+FFFD, a number beyond every float the last one
/// before it.
#[must_use]
pub fn value(raw: &str) -> Value {
    let read = |text: &str| {
        let mut text = serde_json::Deserializer::from_str(text);
        // Ours is one level more, and was checked.
        text.disable_recursion_limit();
        Value::deserialize(&mut text)
    };
    read(raw).or_else(|_| read(&holdable(raw))).unwrap_or_else(|_| {
        debug_assert!(false, "text that is not JSON");
        Value::Null
    })
}

/// The same value with nothing in it that a [`Value`] cannot hold.
fn holdable(raw: &str) -> String {
    let text = raw.as_bytes();
    let mut out = String::with_capacity(raw.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let end = match byte {
            b'"' => scan::string_end(text, at).0 + 1,
            b'-' | b'0'..=b'9' => scan::value_end(text, at),
            _ => at + raw[at..].chars().next().map_or(1, char::len_utf8),
        };
        let token = &raw[at..end];
        match (byte, token.parse::<f64>()) {
            (b'"', _) if token.contains('\\') => out.push_str(&string(&scan::decode(&token[1..token.len() - 1], true))),
            (b'-' | b'0'..=b'9', Ok(number)) if number.is_infinite() => {
                out.push_str(if *byte == b'-' { "-1.7976931348623157e308" } else { "1.7976931348623157e308" });
            }
            _ => out.push_str(token),
        }
        at = end;
    }
    out
}

/// Whether a JSON value is an object.
#[must_use]
pub fn is_object(raw: &str) -> bool {
    raw.trim_ascii_start().starts_with('{')
}

/// The JSON value on one line: line breaks become spaces, everything else stays byte for byte. Strings are safe, since
/// JSON allows no line breaks in them.
#[must_use]
pub fn one_line(raw: &str) -> Cow<'_, str> {
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    // Most values have none. Without an early way out the compiler looks at many bytes at a time.
    let has_break = |block: &[u8]| block.iter().fold(false, |found, byte| found | is_break(byte));
    let has_breaks = raw.as_bytes().chunks(1024).any(has_break);
    if has_breaks { Cow::Owned(raw.replace(['\n', '\r'], " ")) } else { Cow::Borrowed(raw) }
}

/// The JSON value without white space between its tokens.
#[must_use]
pub fn compact(raw: &str) -> Cow<'_, str> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let bytes = raw.as_bytes();
    let mut compact = String::new();
    let (mut at, mut kept) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        match *byte {
            b'"' => at = scan::string_end(bytes, at).0,
            byte if is_space(byte) => {
                compact.push_str(&raw[kept..at]);
                kept = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    if kept == 0 {
        return Cow::Borrowed(raw);
    }
    compact.push_str(&raw[kept..]);
    Cow::Owned(compact)
}

/// What a string is in its JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StringRole {
    /// The key of a member of an object.
    Key,
    /// A value.
    Value,
}

/// Offers every string of a JSON value, decoded, to `change`. Where that returns a new string, it takes the old one's
/// place; everything else stays byte for byte. Half surrogate pairs are offered as U+FFFD.
pub fn map_strings(raw: &str, mut change: impl FnMut(&str, StringRole) -> Option<String>) -> Cow<'_, str> {
    let text = raw.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(open) = raw[at..].find('"').map(|found| at + found) {
        let (close, escapes) = scan::string_end(text, open);
        at = (close + 1).min(raw.len());
        let is_key = text.get(scan::skip_space(text, at)) == Some(&b':');
        let role = if is_key { StringRole::Key } else { StringRole::Value };
        if let Some(changed) = change(&scan::decode(&raw[open + 1..close], escapes), role) {
            out.push_str(&raw[copied..open]);
            out.push_str(&string(&changed));
            copied = at;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(raw);
    }
    out.push_str(&raw[copied..]);
    Cow::Owned(out)
}

/// The value as serde's type, so that a struct can carry it.
#[must_use]
pub fn as_raw(json: &RawJson) -> &RawValue {
    serde_json::from_str(json.as_str()).unwrap_or_else(|_| {
        debug_assert!(false, "RawJson::from_valid was given text that is not JSON");
        RawValue::NULL
    })
}

/// The value of serde's type as ours.
#[must_use]
pub fn from_raw(raw: &RawValue) -> RawJson {
    RawJson::from_valid(raw.get())
}
