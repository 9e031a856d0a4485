//! Small steps over JSON text that is known to be valid: where a string ends, what it says, where a value ends.
//!
//! Owns positions in text. Does not check anything; on text that is not JSON the answers are meaningless, but every
//! step ends and stays inside the text.

use memchr::memchr2;
use std::borrow::Cow;

/// The first position from `at` on that is not white space.
pub(super) fn skip_space(text: &[u8], at: usize) -> usize {
    let rest = text[at.min(text.len())..].iter();
    at + rest.take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count()
}

/// For a string whose opening quote is at `at`: the position of its closing quote, and whether there are escapes.
pub(super) fn string_end(text: &[u8], at: usize) -> (usize, bool) {
    /// Behind so many words without either, a search that begins slowly and looks at many bytes at a time is faster.
    const FAR: u32 = 4;
    let (mut at, mut escapes, mut plain_words) = (at + 1, false, 0);
    while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let plain = plain_bytes(*eight, |word| equal(word, b'"') | equal(word, b'\\'));
        at += plain;
        if plain == 8 {
            plain_words += 1;
            if plain_words == FAR {
                plain_words = 0;
                at = memchr2(b'"', b'\\', &text[at..]).map_or(text.len(), |found| at + found);
            }
        } else if text[at] == b'"' {
            return (at, escapes);
        } else {
            (escapes, plain_words) = (true, 0);
            at += 2;
        }
    }
    loop {
        match text.get(at) {
            None => return (text.len(), escapes),
            Some(b'"') => return (at, escapes),
            Some(b'\\') => {
                escapes = true;
                at += 2;
            }
            Some(_) => at += 1,
        }
    }
}

/// How many bytes of a block come before the first that a JSON string has to escape. Nearly always all of them do, so that
/// all its words are asked at once.
pub(super) fn unescaped_bytes(block: &[u8; 32]) -> usize {
    let (words, _) = block.as_chunks::<8>();
    let marks = |eight: &[u8; 8]| {
        let word = u64::from_le_bytes(*eight);
        equal(word, b'"') | equal(word, b'\\') | controls(word)
    };
    if words.iter().fold(0, |all, eight| all | marks(eight)) == 0 {
        return block.len();
    }
    let marked = words.iter().map(marks).enumerate().find(|(_, marks)| *marks != 0);
    marked.map_or(block.len(), |(at, marks)| at * 8 + marks.trailing_zeros() as usize / 8)
}

/// How many come before the first that `marks` marks in the top bit of a byte of a word.
fn plain_bytes(eight: [u8; 8], marks: impl Fn(u64) -> u64) -> usize {
    marks(u64::from_le_bytes(eight)).trailing_zeros() as usize / 8
}

const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);

/// The top bit of each byte that is this one. A borrow may set bits of bytes above such a one, never below.
const fn equal(word: u64, byte: u8) -> u64 {
    let zeros = word ^ (ONES * byte as u64);
    zeros.wrapping_sub(ONES) & !zeros & TOPS
}

/// The top bit of each byte below a space, with the same proviso.
const fn controls(word: u64) -> u64 {
    word.wrapping_sub(ONES * b' ' as u64) & !word & TOPS
}

/// The position behind the value that begins at `at`.
pub(super) fn value_end(text: &[u8], at: usize) -> usize {
    let mut at = at;
    let mut depth = 0usize;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                at = string_end(text, at).0;
                if depth == 0 {
                    return (at + 1).min(text.len());
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return at + usize::from(depth == 1),
            b'}' | b']' => depth -= 1,
            b',' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// What becomes of half a surrogate pair without the other half, which no Unicode text can hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Halves {
    /// U+FFFD.
    Replaced,
    /// As UTF-8 would have it if it could: no text has these bytes.
    Kept,
}

/// Writes what the inside of a JSON string, less its quotes, says behind what is there. By index and not by pushing: this is
/// built for size, and a push is a call then.
pub(super) fn unescape(inside: &str, halves: Halves, out: &mut Vec<u8>) {
    let start = out.len();
    // No escape is shorter than what it stands for; a word may stand behind the end before it is known to be cut.
    out.resize(start + inside.len() + 8, 0);
    let room = &mut out[start..];
    let mut written = 0;
    let mut rest = inside.as_bytes();
    while let Some((eight, behind)) = rest.split_first_chunk::<8>() {
        room[written..written + 8].copy_from_slice(eight);
        let plain = plain_bytes(*eight, |word| equal(word, b'\\'));
        written += plain;
        rest = if plain == 8 { behind } else { escaped(&rest[plain + 1..], halves, room, &mut written) };
    }
    while let Some((byte, behind)) = rest.split_first() {
        rest = if *byte == b'\\' {
            escaped(behind, halves, room, &mut written)
        } else {
            room[written] = *byte;
            written += 1;
            behind
        };
    }
    out.truncate(start + written);
}

/// Writes the character whose escape begins behind its backslash; what follows it.
fn escaped<'t>(text: &'t [u8], halves: Halves, room: &mut [u8], written: &mut usize) -> &'t [u8] {
    let Some((name, rest)) = text.split_first() else { return text };
    if *name == b'u'
        && let Some((unit, rest)) = hex(rest)
    {
        return numbered(unit, rest, halves, room, written);
    }
    room[*written] = match name {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        other => *other,
    };
    *written += 1;
    rest
}

/// Writes the character whose number, or the first half of it, was before `text`; what follows it.
fn numbered<'t>(unit: u16, text: &'t [u8], halves: Halves, room: &mut [u8], written: &mut usize) -> &'t [u8] {
    let second = || {
        let (second, behind) = text.strip_prefix(b"\\u").and_then(hex)?;
        Some((char::decode_utf16([unit, second]).next()?.ok()?, behind))
    };
    let (c, rest) = match char::from_u32(u32::from(unit)) {
        Some(c) => (Some(c), text),
        None => second().map_or((None, text), |(c, behind)| (Some(c), behind)),
    };
    let room = &mut room[*written..];
    *written += match (c, halves) {
        (Some(c), _) => c.encode_utf8(room).len(),
        (None, Halves::Replaced) => char::REPLACEMENT_CHARACTER.encode_utf8(room).len(),
        (None, Halves::Kept) => {
            let [high, low] = unit.to_be_bytes();
            room[..3].copy_from_slice(&[0xe0 | high >> 4, 0x80 | (high & 15) << 2 | low >> 6, 0x80 | low & 63]);
            3
        }
    };
    rest
}

/// The number that four hexadecimal digits are, and what follows them.
fn hex(text: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = text.split_first_chunk::<4>()?;
    let add = |number: u16, digit: &u8| Some(number << 4 | u16::try_from(char::from(*digit).to_digit(16)?).ok()?);
    Some((digits.iter().try_fold(0, add)?, rest))
}

/// What the inside of a JSON string says. Half surrogate pairs become U+FFFD.
#[allow(clippy::expect_used, reason = "whole characters are written, one behind the other")]
pub(super) fn decode(inside: &str, escapes: bool) -> Cow<'_, str> {
    if !escapes {
        return Cow::Borrowed(inside);
    }
    let mut out = Vec::with_capacity(inside.len());
    unescape(inside, Halves::Replaced, &mut out);
    Cow::Owned(String::from_utf8(out).expect("a text stays one"))
}
