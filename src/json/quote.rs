//! Texts as JSON strings, 32 bytes at a time.
//!
//! Owns the writing of strings that may be long: `serde_json` looks at one byte after the other, which for an answer of 100 KiB
//! takes longer than all else that is done to it. What is written is the same.

use super::scan;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Below this `serde_json` is as good: there is nothing to allocate.
const LONG: usize = 256;

/// So much of a text is written at a time, into room for what it is at most: six bytes for one.
const BLOCK: usize = 512;
const ROOM: usize = 6 * BLOCK + 32;

/// Writes the text as a JSON string behind what is there.
#[allow(clippy::expect_used, clippy::missing_panics_doc, reason = "writing a string to memory cannot fail")]
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    if text.len() < LONG {
        return serde_json::to_writer(out, text).expect("every text is a JSON string");
    }
    out.reserve(text.len() + text.len() / 16 + 2);
    out.push(b'"');
    let mut room = [0; ROOM];
    for block in text.as_bytes().chunks(BLOCK) {
        let written = write_block(block, &mut room);
        out.extend_from_slice(&room[..written]);
    }
    out.push(b'"');
}

/// Writes a part of a string, of [`BLOCK`] bytes at most; how many it became. By index and not by pushing: this is built for
/// size, and a push is a call then.
fn write_block(block: &[u8], room: &mut [u8; ROOM]) -> usize {
    let mut written = 0;
    let mut rest = block;
    while let Some((many, behind)) = rest.split_first_chunk::<32>() {
        room[written..written + 32].copy_from_slice(many);
        let plain = scan::unescaped_bytes(many);
        written += plain;
        rest = if plain == many.len() {
            behind
        } else {
            written += escape(rest[plain], &mut room[written..]);
            &rest[plain + 1..]
        };
    }
    for byte in rest {
        if matches!(byte, b'"' | b'\\' | ..b' ') {
            written += escape(*byte, &mut room[written..]);
        } else {
            room[written] = *byte;
            written += 1;
        }
    }
    written
}

/// Writes a character that cannot stand in a string as it is; how many bytes it became.
fn escape(byte: u8, room: &mut [u8]) -> usize {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    room[0] = b'\\';
    room[1] = match byte {
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        b'"' | b'\\' => byte,
        _ => {
            let digit = |value: u8| HEX[usize::from(value & 15)];
            room[1..6].copy_from_slice(&[b'u', b'0', b'0', digit(byte >> 4), digit(byte)]);
            return 6;
        }
    };
    2
}

/// The text as a JSON string.
#[must_use]
#[allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "they are the text's characters, and ASCII between them"
)]
pub fn string(text: &str) -> String {
    let mut out = Vec::new();
    write_string(&mut out, text);
    String::from_utf8(out).expect("a text stays one")
}

/// For `serialize_with`: a text that may be long.
pub fn text<S: Serializer>(text: &(impl AsRef<str> + ?Sized), serializer: S) -> Result<S::Ok, S::Error> {
    Quoted(text.as_ref()).serialize(serializer)
}

/// For `serialize_with`: as [`text`], where there is one.
#[expect(clippy::ref_option, reason = "serde gives the field as it is")]
pub fn text_if_any<S: Serializer>(text: &Option<impl AsRef<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_ref().map(|text| Quoted(text.as_ref())).serialize(serializer)
}

/// For `serialize_with`: as [`text`], each of them.
pub fn texts<S: Serializer>(texts: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(texts.iter().map(|text| Quoted(text)))
}

struct Quoted<'a>(&'a str);

impl Serialize for Quoted<'_> {
    #[expect(unsafe_code, reason = "the safe way reads all of what was written")]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.len() < LONG {
            return serializer.serialize_str(self.0);
        }
        // SAFETY: it is one JSON string, as a property over texts says.
        unsafe { RawValue::from_string_unchecked(string(self.0)) }.serialize(serializer)
    }
}
