//! Reading JSON text without building values of it: the members of an object, a string, an integer.
//!
//! Owns the tolerance for text that is JSON by its grammar and still refused by a parser that fills Rust strings and
//! floats. What the values mean is decided elsewhere.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// The members of an object, each value as its text. Of duplicate keys the last one counts.
pub type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// The members, if the text is a JSON object.
pub(super) fn members(json: &str) -> Option<Members<'_>> {
    if !json.trim_ascii_start().starts_with('{') {
        return None;
    }
    serde_json::from_str::<Object<'_>>(json).ok().map(|object| object.0)
}

/// The text of a JSON string. Halves of surrogate pairs are replaced.
pub(super) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    if !value.get().starts_with('"') {
        return None;
    }
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|text| text.0)
}

/// The digits of a JSON number without fraction and exponent, however large.
pub(super) fn integer_text(value: &RawValue) -> Option<&str> {
    let json = value.get();
    let digits = json.strip_prefix('-').unwrap_or(json);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(if digits == "0" { digits } else { json })
}

/// Whether it is `null`.
pub(super) fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// Whether it is an object.
pub(super) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// How deeply arrays and objects are nested in a JSON text.
pub(super) fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut quoted, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A copy of valid JSON in which every half of a surrogate pair is a replacement character and every number that a
/// float might not hold is 0. No number of that kind ever means anything to us: integers that may be ids stay.
pub(super) fn repaired(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => {
                let length = string_length(rest);
                repair_string(&rest[..length], &mut out);
                length
            }
            '-' | '0'..='9' => {
                let end = |c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E');
                let length = rest.find(end).unwrap_or(rest.len());
                let number = &rest[..length];
                out.push_str(if length > 256 || number.contains(['e', 'E']) { "0" } else { number });
                length
            }
            other => {
                out.push(other);
                other.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    out
}

/// Length of the JSON string at the start of the text, with its quotes.
fn string_length(json: &str) -> usize {
    let mut escaped = false;
    let closing = json.bytes().skip(1).position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    closing.map_or(json.len(), |at| at + 2)
}

fn repair_string(quoted: &str, out: &mut String) {
    let mut rest = quoted;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match (unit(rest), rest.get(6..).and_then(unit)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                out.push('\u{FFFD}');
                rest = &rest[6..];
                continue;
            }
            (Some(_), _) => 6,
            (None, _) => 2,
        };
        let (escape, tail) = rest.split_at_checked(length).unwrap_or((rest, ""));
        out.push_str(escape);
        rest = tail;
    }
    out.push_str(rest);
}

/// The UTF-16 unit that a `\uXXXX` at the start of the text stands for.
fn unit(escape: &str) -> Option<u32> {
    let digits = escape.strip_prefix("\\u")?.get(..4)?;
    u32::from_str_radix(digits, 16).ok()
}

struct Object<'a>(Members<'a>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Of;
        impl<'de> Visitor<'de> for Of {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::new();
                while let Some((Text(key), value)) = map.next_entry()? {
                    members.insert(key, value);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Of)
    }
}

/// A string, borrowed where it has no escapes. Read as bytes, the one way to get past half a surrogate pair.
pub(super) struct Text<'a>(pub Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Of;
        impl<'de> Visitor<'de> for Of {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Text(String::from_utf8_lossy(bytes)))
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(String::from_utf8_lossy(bytes).into_owned())))
            }
        }
        deserializer.deserialize_bytes(Of)
    }
}
