//! A log of lines in a file: one writer, any number of readers, each at its own byte.
//!
//! Owns the file and how far it may be read. What a line says is its writer's business. The file is the whole log: nothing
//! of it is kept in memory, what was read lately is in the system's cache.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// How far a log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// Bytes that may be read. A line's end, always.
    pub bytes: u64,
    /// Whether nothing will be added.
    pub is_final: bool,
}

/// A log of lines.
#[derive(Debug)]
pub struct LineLog {
    path: PathBuf,
    /// Whether something may be added. The file itself is open only while it is written or read: there may be more logs
    /// than a process may have files.
    is_open: Mutex<bool>,
    end: watch::Sender<LogEnd>,
}

/// A piece of a log.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The position behind them.
    pub next: u64,
}

impl LineLog {
    /// A new log, empty, that nobody else may read.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        file.set_len(0)?;
        Ok(Self::at(path, LogEnd { bytes: 0, is_final: false }))
    }

    /// The log of a writer that is no more. A last line that was not written whole is taken off.
    ///
    /// # Errors
    /// The file is not there, or cannot be opened.
    pub fn reopen(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).read(true).open(&path)?;
        let bytes = whole_lines(&file)?;
        if bytes < file.metadata()?.len() {
            file.set_len(bytes)?;
        }
        Ok(Self::at(path, LogEnd { bytes, is_final: false }))
    }

    /// The log of a past that is complete; one whose file is gone is empty.
    #[must_use]
    pub fn past(path: PathBuf) -> Self {
        let bytes = path.metadata().map_or(0, |metadata| metadata.len());
        Self::at(path, LogEnd { bytes, is_final: true })
    }

    fn at(path: PathBuf, end: LogEnd) -> Self {
        Self { path, is_open: Mutex::new(!end.is_final), end: watch::Sender::new(end) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far it goes now.
    #[must_use]
    pub fn end(&self) -> LogEnd {
        *self.end.borrow()
    }

    /// Tells how far it goes, whenever that changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<LogEnd> {
        self.end.subscribe()
    }

    /// Adds whole lines. They can be read when this returns.
    ///
    /// # Errors
    /// The file does not take them: nothing of them can be read.
    pub fn append(&self, lines: &[u8]) -> io::Result<()> {
        let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_open {
            return Err(io::Error::other("the log is closed"));
        }
        let before = self.end().bytes;
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        if let Err(error) = file.write_all(lines) {
            // A part of a line would make everything behind it unreadable.
            let _ = file.set_len(before);
            return Err(error);
        }
        self.end.send_replace(LogEnd { bytes: before + lines.len() as u64, is_final: false });
        Ok(())
    }

    /// Nothing will be added.
    pub fn finish(&self) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.end.send_modify(|end| end.is_final = true);
    }

    /// What stands from byte `from` on: about `most` bytes, cut at the end of a line, but at least one line. Empty at the
    /// end.
    ///
    /// # Errors
    /// The file is gone, or cannot be read.
    pub fn read(&self, from: u64, most: usize) -> io::Result<Piece> {
        let end = self.end().bytes;
        if from >= end {
            return Ok(Piece { bytes: Vec::new(), next: end });
        }
        let file = File::open(&self.path)?;
        let left = usize::try_from(end - from).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        loop {
            let done = bytes.len();
            let take = left.min(done + most.max(1)) - done;
            bytes.resize(done + take, 0);
            file.read_exact_at(&mut bytes[done..], from + done as u64)?;
            if done == 0 && bytes.len() == left {
                break;
            }
            // As many lines as fit; of one that does not, only its end.
            let cut = if done == 0 { memchr::memrchr(b'\n', &bytes) } else { memchr::memchr(b'\n', &bytes[done..]) };
            if let Some(at) = cut {
                bytes.truncate(done + at + 1);
                break;
            }
            if bytes.len() == left {
                break;
            }
        }
        let next = from + bytes.len() as u64;
        Ok(Piece { bytes, next })
    }
}

/// How much of a file is whole lines.
fn whole_lines(file: &File) -> io::Result<u64> {
    const STEP: u64 = 64 << 10;
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let mut bytes = Vec::new();
        let mut part = file.try_clone()?;
        io::Seek::seek(&mut part, io::SeekFrom::Start(start))?;
        part.take(end - start).read_to_end(&mut bytes)?;
        if let Some(at) = memchr::memrchr(b'\n', &bytes) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn lines_are_read_from_any_byte() {
        let folder = tempfile::tempdir().unwrap();
        let log = LineLog::create(folder.path().join("logs/a.ndjson")).unwrap();
        assert_eq!(log.read(0, 10).unwrap(), Piece { bytes: vec![], next: 0 });
        log.append(b"one\ntwo\n").unwrap();
        log.append(b"three is longer than that\n").unwrap();
        let read = |from, most| log.read(from, most).unwrap();
        assert_eq!(read(0, 6), Piece { bytes: b"one\n".into(), next: 4 });
        assert_eq!(read(4, 3).bytes, b"two\n", "at least one line");
        assert_eq!(read(9, 1000).bytes, b"hree is longer than that\n");
        assert_eq!(read(8, 4).next, 34);
        log.append(b"x\n").unwrap();
        assert_eq!(read(8, 24).next, 34, "the end of a long line, and not the next one");
        assert_eq!(read(8, 26).next, 34);
        assert_eq!(read(8, 28).next, 36);
        assert_eq!(read(99, 4), Piece { bytes: vec![], next: 36 });
        assert_eq!(log.end(), LogEnd { bytes: 36, is_final: false });
        log.finish();
        assert!(log.end().is_final && log.append(b"x\n").is_err());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(log.path()), mode(log.path().parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn a_torn_line_is_taken_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        for (before, after) in [("", ""), ("torn", ""), ("one\ntwo", "one\n"), ("one\n", "one\n")] {
            std::fs::write(&path, before).unwrap();
            let log = LineLog::reopen(path.clone()).unwrap();
            assert_eq!(log.end().bytes, after.len() as u64);
            log.append(b"more\n").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{after}more\n"));
        }
        let long = format!("one\n{}", "x".repeat(200_000));
        std::fs::write(&path, long).unwrap();
        assert_eq!(LineLog::reopen(path.clone()).unwrap().end().bytes, 4);
        std::fs::remove_file(&path).unwrap();
        assert!(LineLog::reopen(path.clone()).is_err());
        assert_eq!(LineLog::past(path).end(), LogEnd { bytes: 0, is_final: true });
    }
}
