//! What the fuzz targets in `fuzz/` call: each takes bytes nobody chose, and panics when something does not hold.
//!
//! Owns what must hold, in a form that needs no other program. Not part of the library anybody uses.

use crate::api::fuzz_message;
use crate::redact::{Redactor, Secret};

/// The first bytes are secrets, one a line up to an empty one; the rest is text. However it is cut, the same comes out,
/// and no secret with it.
///
/// # Panics
/// When that does not hold.
pub fn redactor(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (list, text) = text.split_once("\n\n").unwrap_or(("secret", &text));
    let secrets: Vec<Secret> = list.lines().take(20).map(Secret::new).collect();
    let redactor = Redactor::new(&secrets);
    let whole = redactor.text(text);
    for secret in secrets.iter().filter(|secret| !secret.expose().is_empty()) {
        // The mark may complete a secret that is a part of it, or of it and its neighbours.
        let apart: Vec<&str> = whole.split(crate::redact::MARK).collect();
        assert!(apart.iter().all(|part| !part.contains(secret.expose())), "a secret is left");
    }
    for size in [1, 2, 7, 64] {
        let mut stream = redactor.stream();
        let mut pieces = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.ceil_char_boundary(size.min(rest.len())));
            stream.push_into(piece, &mut pieces);
            rest = more;
        }
        pieces.push_str(&stream.finish());
        assert_eq!(pieces, whole, "cut every {size} bytes");
    }
}

/// A message of a WebSocket client is understood or refused, in a sentence.
///
/// # Panics
/// When it is neither.
pub fn message(data: &[u8]) {
    fuzz_message(&String::from_utf8_lossy(data));
}
