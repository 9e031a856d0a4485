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

#[cfg(test)]
mod tests {
    use std::io::Read;

    /// What the fuzzers have found so far, one archive for each target: it must hold in every build.
    fn replay(target: &str, check: fn(&[u8])) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/corpus/{target}.zip"));
        let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut archive = zip::ZipArchive::new(file).unwrap();
        assert!(archive.len() > 50, "only {} inputs", archive.len());
        for at in 0..archive.len() {
            let mut input = Vec::new();
            archive.by_index(at).unwrap().read_to_end(&mut input).unwrap();
            check(&input);
        }
    }

    #[test]
    fn redactor() {
        replay("redactor", super::redactor);
    }

    #[test]
    fn message() {
        replay("message", super::message);
    }
}
