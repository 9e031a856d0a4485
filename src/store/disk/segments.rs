//! The log itself: files of records, added to at the end, read by position.
//!
//! Owns the bytes on the disk: a record's frame with its checksum, files of a bounded size, what is left of a write that
//! did not come to its end. A position counts bytes from the beginning of the log for ever, whatever files are still there,
//! so it names a record. What records mean is `chunk`'s; which are whose, `spans` and the index know.

use super::{signed, unsigned};
use crate::model::SessionId;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file is this long, or as long as one commit; with a smaller bound on all of them, a sixteenth of that.
const FILE_BYTES: i64 = 16 << 20;
/// Files that a reader keeps open.
const OPEN_FILES: usize = 4;
/// Length and checksum.
const FRAME: usize = 8;

/// Of what a record is, besides its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) session: SessionId,
    /// The number of its first entry, or of the entry that comes next where it has none.
    pub(super) first: i64,
    /// The number of its last entry.
    pub(super) last: i64,
    pub(super) at: u64,
    pub(super) flags: u8,
}

/// A record as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    /// The position behind it.
    pub(super) end: i64,
}

/// Where the files begin, shared by all who use them.
#[derive(Debug, Clone)]
pub(super) struct Segments {
    folder: PathBuf,
    starts: Arc<Mutex<BTreeSet<i64>>>,
}

impl Segments {
    /// The files of a folder, which is made if it is missing.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut starts = BTreeSet::new();
        for entry in std::fs::read_dir(&folder)? {
            let name = entry?.file_name();
            let start = name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|start| start.parse().ok());
            starts.extend(start.filter(|start: &i64| *start >= 0));
        }
        Ok(Self { folder, starts: Arc::new(Mutex::new(starts)) })
    }

    fn starts(&self) -> MutexGuard<'_, BTreeSet<i64>> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, start: i64) -> PathBuf {
        self.folder.join(format!("{start:019}.log"))
    }

    /// Where the file with this position begins.
    fn start_of(&self, position: i64) -> Option<i64> {
        self.starts().range(..=position).next_back().copied()
    }

    /// The first position that is still there.
    pub(super) fn begin(&self) -> i64 {
        self.starts().first().copied().unwrap_or_default()
    }

    /// Removes the files that hold nothing from `position` on. The last one stays: it is written to.
    pub(super) fn remove_before(&self, position: i64) -> io::Result<()> {
        loop {
            let mut starts = self.starts();
            let mut first_two = starts.iter().copied().take(2);
            let (Some(first), Some(second)) = (first_two.next(), first_two.next()) else { return Ok(()) };
            if second > position {
                return Ok(());
            }
            starts.remove(&first);
            drop(starts);
            std::fs::remove_file(self.path(first))?;
        }
    }
}

/// The end of the log: takes records, and writes those of one commit at once.
pub(super) struct LogWriter {
    segments: Segments,
    file: Arc<File>,
    /// Where the file begins.
    start: i64,
    /// Behind what is written.
    end: i64,
    /// A file is about so long.
    file_bytes: i64,
    buffer: Vec<u8>,
    /// What the system was not yet asked to bring to the disk.
    unsynced: Vec<Arc<File>>,
    /// Beyond this position the disk is full.
    #[cfg(test)]
    pub(super) full_at: Option<i64>,
}

impl LogWriter {
    /// Goes on behind the last whole record; what comes behind that is cut off. `each` is told every whole record from
    /// the position `from` on.
    pub(super) fn open(
        segments: &Segments,
        from: i64,
        most: u64,
        mut each: impl FnMut(i64, Record),
    ) -> io::Result<Self> {
        let mut reader = LogReader::new(segments.clone());
        let mut end = from;
        while let Some(record) = reader.read(end)? {
            let position = std::mem::replace(&mut end, record.end);
            each(position, record);
        }
        let torn: Vec<i64> = segments.starts().range(end + 1..).copied().collect();
        for start in torn {
            // Whoever follows a record that is not whole was not told to be kept, either.
            std::fs::remove_file(segments.path(start))?;
            segments.starts().remove(&start);
        }
        let length = |start: i64| std::fs::metadata(segments.path(start)).map(|data| signed(data.len()));
        let start = match segments.start_of(end) {
            Some(start) if start + length(start)? >= end => start,
            // The index knows of records that are gone: a position is not used twice all the same.
            _ => end,
        };
        let file = Arc::new(open_file(&segments.path(start))?);
        file.set_len(unsigned(end - start))?;
        segments.starts().insert(start);
        Ok(Self {
            segments: segments.clone(),
            unsynced: vec![file.clone()],
            file,
            start,
            end,
            file_bytes: (signed(most) / 16).clamp(64 << 10, FILE_BYTES),
            buffer: Vec::new(),
            #[cfg(test)]
            full_at: None,
        })
    }

    /// Behind what is written.
    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// Adds a record to the next commit; its position.
    pub(super) fn push(&mut self, head: &Head, body: &[u8]) -> i64 {
        let from = self.buffer.len();
        self.buffer.extend_from_slice(&[0; FRAME]);
        let name = head.session.as_str().as_bytes();
        // Ids are far shorter: 256 characters of a caller, and the name of a protocol.
        let name = &name[..name.len().min(usize::from(u16::MAX))];
        self.buffer.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.buffer.extend_from_slice(name);
        self.buffer.extend_from_slice(&head.first.to_le_bytes());
        self.buffer.extend_from_slice(&head.last.to_le_bytes());
        self.buffer.extend_from_slice(&head.at.to_le_bytes());
        self.buffer.push(head.flags);
        self.buffer.extend_from_slice(body);
        let payload = &self.buffer[from + FRAME..];
        let (length, sum) = (u32::try_from(payload.len()).unwrap_or(u32::MAX), crc32fast::hash(payload));
        self.buffer[from..from + 4].copy_from_slice(&length.to_le_bytes());
        self.buffer[from + 4..from + FRAME].copy_from_slice(&sum.to_le_bytes());
        self.end + signed(from as u64)
    }

    /// Writes what was pushed: all of it or nothing. A killed process loses nothing that was written.
    pub(super) fn commit(&mut self) -> io::Result<()> {
        let written = self.write();
        self.buffer.clear();
        // One large commit must not be paid for ever after.
        self.buffer.shrink_to(256 << 10);
        written
    }

    /// Forgets what was pushed.
    pub(super) fn roll_back(&mut self) {
        self.buffer.clear();
    }

    fn write(&mut self) -> io::Result<()> {
        if self.end - self.start >= self.file_bytes {
            self.file = Arc::new(open_file(&self.segments.path(self.end))?);
            self.start = self.end;
            self.segments.starts().insert(self.start);
            self.unsynced.push(self.file.clone());
        }
        let at = unsigned(self.end - self.start);
        let written = self.write_at(at);
        match written {
            Ok(()) => {
                self.end += signed(self.buffer.len() as u64);
                Ok(())
            }
            Err(error) => {
                // What got there is cut off again; were that to fail, too, its checksum tells.
                let _ = self.file.set_len(at);
                Err(error)
            }
        }
    }

    fn write_at(&self, at: u64) -> io::Result<()> {
        #[cfg(test)]
        if self.full_at.is_some_and(|full| self.end + signed(self.buffer.len() as u64) > full) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.file.write_all_at(&self.buffer, at)
    }

    /// Whether there is room on the disk again, found out by using some.
    pub(super) fn probe(&mut self) -> io::Result<()> {
        let at = unsigned(self.end - self.start);
        let file = self.file.clone();
        self.buffer.resize(64 << 10, 0);
        let written = self.write_at(at);
        self.buffer.clear();
        let cut = file.set_len(at);
        written.and(cut)
    }

    /// What the system has to bring to the disk before anything relies on it: whoever asks does so, outside any lock.
    pub(super) fn unsynced(&mut self) -> Vec<Arc<File>> {
        std::mem::replace(&mut self.unsynced, vec![self.file.clone()])
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    // Prompts and answers are in there: nobody else reads them.
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

/// Reads records by position.
pub(super) struct LogReader {
    segments: Segments,
    /// The files that were used last, the newest at the end.
    files: Vec<(i64, File)>,
}

impl LogReader {
    pub(super) fn new(segments: Segments) -> Self {
        Self { segments, files: Vec::new() }
    }

    /// The record at a position; `None` when it is not there, or not whole.
    pub(super) fn read(&mut self, position: i64) -> io::Result<Option<Record>> {
        let Some(start) = self.segments.start_of(position) else { return Ok(None) };
        let Some(file) = self.file(start)? else { return Ok(None) };
        let at = unsigned(position - start);
        let mut frame = [0; FRAME];
        if !filled(file, &mut frame, at)? {
            return Ok(None);
        }
        let [l0, l1, l2, l3, s0, s1, s2, s3] = frame;
        let (length, sum) = (u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([s0, s1, s2, s3]));
        let size = file.metadata()?.len();
        // What the length says is believed only as far as the file goes.
        if length == 0 || at + FRAME as u64 + u64::from(length) > size {
            return Ok(None);
        }
        let mut payload = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        if !filled(file, &mut payload, at + FRAME as u64)? || crc32fast::hash(&payload) != sum {
            return Ok(None);
        }
        Ok(record(payload, position))
    }

    fn file(&mut self, start: i64) -> io::Result<Option<&File>> {
        match self.files.iter().position(|(one, _)| *one == start) {
            Some(at) => {
                let used = self.files.remove(at);
                self.files.push(used);
            }
            None => match File::open(self.segments.path(start)) {
                Ok(file) => {
                    if self.files.len() >= OPEN_FILES {
                        self.files.remove(0);
                    }
                    self.files.push((start, file));
                }
                // It was removed since: what it held is no longer kept.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        }
        Ok(self.files.last().map(|(_, file)| file))
    }
}

/// Whether the file has so many bytes there.
fn filled(file: &File, bytes: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn record(mut payload: Vec<u8>, position: i64) -> Option<Record> {
    let end = position + signed((FRAME + payload.len()) as u64);
    let (name_bytes, rest) = payload.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*name_bytes)))?;
    let (first, rest) = rest.split_first_chunk::<8>()?;
    let (last, rest) = rest.split_first_chunk::<8>()?;
    let (at, rest) = rest.split_first_chunk::<8>()?;
    let (flags, body) = rest.split_first()?;
    let head = Head {
        session: SessionId::kept(std::str::from_utf8(name).ok()?),
        first: i64::from_le_bytes(*first),
        last: i64::from_le_bytes(*last),
        at: u64::from_le_bytes(*at),
        flags: *flags,
    };
    let before = payload.len() - body.len();
    payload.drain(..before);
    Some(Record { head, body: payload, end })
}
