//! What the fuzz targets in `fuzz/` call: each takes bytes nobody chose, and panics when something does not hold.
//!
//! Owns what must hold, in a form that needs no other program. Not part of the library anybody uses.

use crate::api::{fuzz_frame, fuzz_message, fuzz_request};
use crate::artifact::unpack::{Kind, UnpackLimits};
use crate::config::fuzz_agents;
use crate::redact::{Redactor, Secret};
use std::io::{Cursor, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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

/// A frame of a session's client, or a command to a sidecar, is understood or refused, in a sentence.
///
/// # Panics
/// When it is neither.
pub fn frame(data: &[u8]) {
    fuzz_frame(&String::from_utf8_lossy(data));
}

/// The body of a request for a session, and a file of agents: understood or refused, in a sentence.
///
/// # Panics
/// When it is neither.
pub fn config(data: &[u8]) {
    fuzz_request(data);
    fuzz_agents(&String::from_utf8_lossy(data));
}

/// The first line is a path, the rest are rules: they are read and asked without a panic.
pub fn ignore(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, rules) = text.split_once('\n').unwrap_or(("a/b", &text));
    for is_directory in [true, false] {
        let _ = crate::artifact::handout::fuzz_rules(rules, Path::new(path.trim_start_matches('/')), is_directory);
    }
}

/// The first byte says which kind of archive the rest is. Whatever it is, nothing outside the directory changes.
///
/// # Panics
/// When something does, or when a limit does not hold.
pub fn unpack(data: &[u8]) {
    let Some((first, archive)) = data.split_first() else { return };
    let kind = if first % 2 == 0 { Kind::Zip } else { Kind::TarGz };
    // What is compressed by chance unpacks to nothing: as it is, a tar reaches further.
    let gzipped = (kind == Kind::TarGz && first % 4 == 1).then(|| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        gzip.write_all(archive).and_then(|()| gzip.finish()).unwrap_or_default()
    });
    let archive = gzipped.as_deref().unwrap_or(archive);
    let Ok(outer) = tempfile::tempdir() else { return };
    let inner = outer.path().join("inner");
    assert!(std::fs::create_dir(&inner).is_ok(), "a directory can be made");
    let limits = UnpackLimits { max_bytes: 1 << 16, max_entries: 64 };
    let _ = crate::artifact::unpack::unpack(kind, Cursor::new(archive), &inner, &limits, &|| false);
    let outside = std::fs::read_dir(outer.path()).map_or(0, Iterator::count);
    assert_eq!(outside, 1, "something was written outside");
    assert!(bytes_in(&inner) <= 1 << 16, "more was unpacked than is allowed");
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_in(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |data| data.len() / data.nlink().max(1)),
            _ => 0,
        })
        .sum()
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

    #[test]
    fn unpack() {
        replay("unpack", super::unpack);
    }

    #[test]
    fn frame() {
        replay("frame", super::frame);
    }

    #[test]
    fn config() {
        replay("config", super::config);
    }

    #[test]
    fn ignore() {
        replay("ignore", super::ignore);
    }
}
