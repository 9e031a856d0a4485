//! Small steps over JSON text that is known to be valid: where a string ends, what it says, where a value ends.
//!
//! Owns positions in text. Does not check anything; on text that is not JSON the answers are meaningless, but every
//! step ends and stays inside the text.

use std::borrow::Cow;

/// The first position from `at` on that is not white space.
pub(super) fn skip_space(text: &[u8], at: usize) -> usize {
    let rest = text[at.min(text.len())..].iter();
    at + rest.take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count()
}

/// For a string whose opening quote is at `at`: the position of its closing quote, and whether there are escapes.
pub(super) fn string_end(text: &[u8], at: usize) -> (usize, bool) {
    let mut at = at + 1;
    let mut escapes = false;
    loop {
        at = quote_or_backslash(text, at);
        if text.get(at) == Some(&b'\\') {
            escapes = true;
            at += 2;
        } else {
            return (at.min(text.len()), escapes);
        }
    }
}

/// The first position from `at` on of a `"` or a `\`, eight bytes at a time.
fn quote_or_backslash(text: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    // The lowest top bit that is set marks the first zero byte; a borrow sets others above it only.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & TOPS;
    while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        let hits = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = text.get(at..).unwrap_or_default().iter();
    at + rest.take_while(|byte| !matches!(byte, b'"' | b'\\')).count()
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

/// A piece of what the inside of a JSON string says.
pub(super) enum Piece<'t> {
    /// Text as it stands there.
    Text(&'t str),
    /// An escaped character.
    Char(char),
    /// Half of a surrogate pair without the other half, which no Unicode text can hold.
    Lone(u16),
}

/// Splits the inside of a JSON string, less its quotes, into pieces.
pub(super) fn unescape<'t>(inside: &'t str, mut each: impl FnMut(Piece<'t>)) {
    let mut rest = inside;
    while let Some(at) = rest.find('\\') {
        if at > 0 {
            each(Piece::Text(&rest[..at]));
        }
        rest = &rest[at + 1..];
        let Some(escape) = rest.chars().next() else { return };
        rest = &rest[escape.len_utf8()..];
        let piece = match escape {
            'b' => Piece::Char('\u{8}'),
            'f' => Piece::Char('\u{c}'),
            'n' => Piece::Char('\n'),
            'r' => Piece::Char('\r'),
            't' => Piece::Char('\t'),
            'u' => {
                let (piece, length) = numbered(rest);
                rest = &rest[length..];
                piece
            }
            other => Piece::Char(other),
        };
        each(piece);
    }
    if !rest.is_empty() {
        each(Piece::Text(rest));
    }
}

/// The character whose number, and perhaps second half, `rest` begins with behind its `\u`; and how long that is.
fn numbered<'t>(rest: &str) -> (Piece<'t>, usize) {
    let Some(unit) = hex(rest) else {
        return (Piece::Char(char::REPLACEMENT_CHARACTER), 0);
    };
    if let Some(c) = char::from_u32(u32::from(unit)) {
        return (Piece::Char(c), 4);
    }
    let second = rest[4..].strip_prefix("\\u").and_then(hex);
    let pair = second.and_then(|second| char::decode_utf16([unit, second]).next()?.ok());
    pair.map_or((Piece::Lone(unit), 4), |c| (Piece::Char(c), 10))
}

fn hex(text: &str) -> Option<u16> {
    u16::from_str_radix(text.get(..4)?, 16).ok()
}

/// What the inside of a JSON string says. Half surrogate pairs become U+FFFD.
pub(super) fn decode(inside: &str, escapes: bool) -> Cow<'_, str> {
    if !escapes {
        return Cow::Borrowed(inside);
    }
    let mut out = String::with_capacity(inside.len());
    unescape(inside, |piece| match piece {
        Piece::Text(text) => out.push_str(text),
        Piece::Char(c) => out.push(c),
        Piece::Lone(_) => out.push(char::REPLACEMENT_CHARACTER),
    });
    Cow::Owned(out)
}
