//! The forms in which a secret may turn up in text: as it is, inside JSON, inside a URL, in base64.
//!
//! Owns the list of forms. Does not search.

/// Of longer secrets only the plain form is searched for: the other forms multiply the size of the automaton.
const LONGEST_DERIVED: usize = 16 * 1024;

/// Shorter ones have base64 forms that occur by chance.
const SHORTEST_BASE64: usize = 8;

/// Adds all forms of a secret that is not empty. The caller removes duplicates.
pub(super) fn add_forms(secret: &str, forms: &mut Vec<String>) {
    forms.push(secret.to_owned());
    if secret.len() > LONGEST_DERIVED {
        return;
    }
    // Most secrets are letters and digits, which look the same in JSON and in a URL.
    if !secret.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        add_json(secret, forms);
        add_url(secret, forms);
    }
    if secret.len() >= SHORTEST_BASE64 {
        add_base64(secret.as_bytes(), forms);
    }
}

/// What a JSON writer escapes beyond the necessary.
#[derive(Clone, Copy)]
struct JsonStyle {
    /// Whether `/` becomes `\/`.
    slash: bool,
    /// What is written by its number.
    numbered: fn(char) -> bool,
    /// The digits of such numbers.
    digits: &'static [u8; 16],
}

fn add_json(secret: &str, forms: &mut Vec<String>) {
    let plain = JsonStyle { slash: false, numbered: |_| false, digits: LOWER };
    // As Python does, and with the slash PHP.
    let ascii = JsonStyle { numbered: |c| c > '~', ..plain };
    // As Go does.
    let html = JsonStyle { numbered: |c| matches!(c, '<' | '>' | '&'), ..plain };
    let styles = [
        plain,
        JsonStyle { digits: UPPER, ..plain },
        JsonStyle { slash: true, ..plain },
        html,
        ascii,
        JsonStyle { digits: UPPER, ..ascii },
        JsonStyle { slash: true, ..ascii },
    ];
    forms.extend(styles.map(|style| json(secret, style)));
}

/// The secret as it stands between the quotes of a JSON string.
fn json(secret: &str, style: JsonStyle) -> String {
    let mut out = String::with_capacity(secret.len() + 16);
    for c in secret.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '/' if style.slash => out.push_str("\\/"),
            _ if c < ' ' || (style.numbered)(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str("\\u");
                    out.extend([12, 8, 4, 0].map(|shift| char::from(style.digits[usize::from(*unit >> shift & 15)])));
                }
            }
            _ => out.push(c),
        }
    }
    out
}

const UPPER: &[u8; 16] = b"0123456789ABCDEF";
const LOWER: &[u8; 16] = b"0123456789abcdef";

/// What URL encoders leave alone besides letters and digits, and their digits: RFC 3986 in both cases, JavaScript's
/// `encodeURIComponent`, Python's `quote`, HTML forms, and .NET.
const URL_STYLES: [(&[u8], &[u8; 16]); 6] = [
    (b"-._~", UPPER),
    (b"-._~", LOWER),
    (b"-._~!*'()", UPPER),
    (b"-._~/", UPPER),
    (b"-._*", UPPER),
    (b"-._!*()", LOWER),
];

fn add_url(secret: &str, forms: &mut Vec<String>) {
    for (safe, digits) in URL_STYLES {
        forms.push(url(secret, safe, digits, false));
        if secret.contains(' ') {
            forms.push(url(secret, safe, digits, true));
        }
    }
}

fn url(secret: &str, safe: &[u8], digits: &[u8; 16], plus: bool) -> String {
    let mut out = String::with_capacity(secret.len() * 3);
    for byte in secret.bytes() {
        if byte.is_ascii_alphanumeric() || safe.contains(&byte) {
            out.push(char::from(byte));
        } else if byte == b' ' && plus {
            out.push('+');
        } else {
            let digit = |nibble: u8| char::from(digits[usize::from(nibble)]);
            out.push('%');
            out.push(digit(byte >> 4));
            out.push(digit(byte & 15));
        }
    }
    out
}

fn add_base64(secret: &[u8], forms: &mut Vec<String>) {
    let padded = base64(secret);
    for text in [padded.replace('+', "-").replace('/', "_"), padded] {
        forms.push(text.trim_end_matches('=').to_owned());
        forms.push(text);
    }
    // Within a longer text, such as the `user:password` of an Authorization header, it falls in one of three ways; the
    // digits that its neighbours have a part in are not looked for.
    for before in 0..3 {
        let bytes = [&[0; 2][..before], secret].concat();
        let text = base64(&bytes);
        let own = (before * 8).div_ceil(6)..bytes.len() * 8 / 6;
        if own.len() >= SHORTEST_BASE64 {
            forms.push(text[own.clone()].replace('+', "-").replace('/', "_"));
            forms.push(text[own].to_owned());
        }
    }
}

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| three.get(at).map_or(0, |byte| usize::from(*byte));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            out.push(if digit > three.len() { '=' } else { char::from(DIGITS[value]) });
        }
    }
    out
}
