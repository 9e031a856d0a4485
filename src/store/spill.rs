//! Where entries wait that a slow reader has not taken yet: an unlinked temporary file, and the list of what is in it.
//!
//! Owns the file's form, its limit, and when its space is given back. What is spilled, and when, is the log's business.
//! Everything that touches the disk is a job of its own ([`Write`], [`Extent::read`]) and may block its thread.
//!
//! Only what a turn says is written. The few entries that say that a turn was accepted or ended stay in memory, in their
//! place. The file is gone with the process; what is in it has been through the redactor, and its mode is 0600.

use crate::model::{Entry, Event, Seq, TurnId, What};
use crate::wire::record::{SeriesReader, SeriesWriter};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A piece is read as a whole: at most this many bytes of entries, or one entry.
const PIECE_BYTES: usize = 64 << 10;
/// A file that has grown beyond this, or beyond a quarter of the limit, is followed by another: what readers have taken
/// comes back a file at a time.
const FILE_BYTES: u64 = 64 << 20;
/// Before each record: when it was numbered (8 bytes), its length (4 bytes), both little-endian.
const HEAD_BYTES: usize = 12;

/// Where spill files are, and how much may be in those of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpillLimits {
    /// The folder; `None` is the system's temporary one.
    pub folder: Option<PathBuf>,
    /// The most bytes that wait in files; 0 spills nothing.
    pub most: u64,
}

/// What of one log is spilled, oldest first. Holds no lock and does no input or output.
#[derive(Debug, Default)]
pub struct Spill {
    pieces: VecDeque<Piece>,
    /// Bytes in files.
    written: u64,
    /// Of them, those at the beginning of the oldest file that nobody needs any more.
    stale: u64,
    /// Weight of the entries among the pieces that stayed in memory.
    kept: usize,
    /// The file that is written to, and its length.
    open: Option<(Arc<File>, u64)>,
}

/// Consecutive entries.
#[derive(Debug)]
struct Piece {
    first: Seq,
    last: Seq,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Kept(Arc<Entry>),
    Written(Extent),
}

/// Where the next entry is.
#[derive(Debug)]
pub enum Spilled {
    /// In memory.
    Kept(Arc<Entry>),
    /// In a file.
    Written(Extent),
}

/// Consecutive entries of one turn in a file. Holding it keeps them readable.
#[derive(Debug, Clone)]
pub struct Extent {
    file: Arc<File>,
    at: u64,
    length: usize,
    first: Seq,
    last: Seq,
    turn: TurnId,
}

/// Files that are not needed any more. The system takes their space back when this is dropped, which may block.
#[derive(Debug)]
pub struct Retired {
    #[allow(dead_code, reason = "it is there to be dropped")]
    files: Vec<Arc<File>>,
}

/// Entries to be written.
#[derive(Debug)]
pub struct Write {
    entries: Vec<Arc<Entry>>,
    open: Option<(Arc<File>, u64)>,
    room: u64,
}

/// What was written: the first of the job's entries, at least one.
#[derive(Debug)]
pub struct Written {
    pieces: Vec<Piece>,
    open: Option<(Arc<File>, u64)>,
    last: Seq,
}

impl Written {
    /// The last entry that need not be in memory any more.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.last
    }
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// The limit is reached: there will be room when readers have read.
    #[error("the spill file has reached its limit")]
    Full,
    /// The system refused.
    #[error("{0}")]
    Failed(#[from] io::Error),
}

impl Spill {
    /// A job that writes these entries, which follow those of the job before. To be given back through
    /// [`Spill::written`] before the next is made.
    #[must_use]
    pub fn write(&self, entries: Vec<Arc<Entry>>, limits: &SpillLimits) -> Write {
        let open = self.open.clone().filter(|(_, length)| *length < FILE_BYTES.min(limits.most / 4));
        Write { entries, open, room: limits.most.saturating_sub(self.written) }
    }

    /// Notes what a job has written.
    pub fn written(&mut self, written: Written) {
        for piece in written.pieces {
            match &piece.body {
                Body::Kept(entry) => self.kept += entry.weight(),
                Body::Written(extent) => self.written += extent.bytes(),
            }
            self.pieces.push_back(piece);
        }
        self.open = written.open;
    }

    /// Where the entry behind `after` is; `None` when it is not here.
    #[must_use]
    pub fn find(&self, after: Seq) -> Option<Spilled> {
        let at = self.pieces.partition_point(|piece| piece.last <= after);
        let piece = self.pieces.get(at).filter(|piece| piece.first <= after.next())?;
        Some(match &piece.body {
            Body::Kept(entry) => Spilled::Kept(entry.clone()),
            Body::Written(extent) => Spilled::Written(extent.clone()),
        })
    }

    /// The number of the oldest entry.
    #[must_use]
    pub fn first(&self) -> Option<Seq> {
        self.pieces.front().map(|piece| piece.first)
    }

    /// Weight of what is kept in memory all the same, in bytes.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Bytes in files.
    #[must_use]
    pub fn in_files(&self) -> u64 {
        self.written
    }

    /// Forgets what nobody needs any more, up to `through`. What it returns is to be dropped where that may block.
    pub fn forget(&mut self, through: Seq) -> Option<Retired> {
        let mut files = Vec::new();
        while self.pieces.front().is_some_and(|piece| piece.last <= through) {
            let Some(piece) = self.pieces.pop_front() else { break };
            match piece.body {
                Body::Kept(entry) => self.kept -= entry.weight(),
                Body::Written(extent) => {
                    self.stale += extent.bytes();
                    if !self.goes_on_in(&extent.file) {
                        self.written -= std::mem::take(&mut self.stale);
                        files.push(extent.file);
                    }
                }
            }
        }
        if self.pieces.is_empty() {
            // A new file is cheaper than a hole in the old one, and as empty.
            files.extend(self.open.take().map(|(file, _)| file));
            (self.written, self.stale) = (0, 0);
            self.pieces.shrink_to_fit();
        }
        (!files.is_empty()).then_some(Retired { files })
    }

    /// Whether the oldest piece that is written, or the next that will be, is in this file.
    fn goes_on_in(&self, file: &Arc<File>) -> bool {
        let next = self.pieces.iter().find_map(|piece| match &piece.body {
            Body::Written(extent) => Some(&extent.file),
            Body::Kept(_) => None,
        });
        next.or(self.open.as_ref().map(|(file, _)| file)).is_some_and(|next| Arc::ptr_eq(next, file))
    }
}

impl Write {
    /// Writes the entries, or as many of the first as the limit allows. Blocks.
    ///
    /// # Errors
    /// Nothing was written: the limit is reached or the system refused.
    pub fn run(self, limits: &SpillLimits) -> Result<Written, SpillError> {
        let Self { entries, open, room } = self;
        // Growing by doubling would leave holes in the heap as large as the batch; a record is rarely longer than its entry.
        let mut text = Vec::with_capacity(entries.iter().map(|entry| entry.weight()).sum());
        let mut pieces: Vec<Piece> = Vec::new();
        let (file, start) = match open {
            Some(open) => open,
            None => (Arc::new(create(limits)?), 0),
        };
        let mut rest = entries.as_slice();
        while let Some(first) = rest.first() {
            let taken = piece(rest);
            let (these, others) = rest.split_at(taken);
            rest = others;
            let before = text.len();
            let body = if matches!(first.what, What::Said(_)) {
                write_records(&mut text, these);
                if text.len() as u64 > room {
                    text.truncate(before);
                    break;
                }
                let (at, length) = (start + before as u64, text.len() - before);
                let last = Seq(first.seq.0 + taken as u64 - 1);
                let extent =
                    Extent { file: file.clone(), at, length, first: first.seq, last, turn: first.turn.clone() };
                Body::Written(extent)
            } else {
                Body::Kept(first.clone())
            };
            pieces.push(Piece { first: first.seq, last: Seq(first.seq.0 + taken as u64 - 1), body });
        }
        let Some(last) = pieces.last().map(|piece| piece.last) else { return Err(SpillError::Full) };
        file.write_all_at(&text, start)?;
        Ok(Written { pieces, open: Some((file, start + text.len() as u64)), last })
    }
}

fn create(limits: &SpillLimits) -> io::Result<File> {
    match &limits.folder {
        Some(folder) => tempfile::tempfile_in(folder),
        None => tempfile::tempfile(),
    }
}

/// How many of the first entries make one piece: what one turn says, up to a bound, or one entry that stays in memory.
fn piece(entries: &[Arc<Entry>]) -> usize {
    let mut bytes = 0;
    let Some(first) = entries.first() else { return 0 };
    let fits = |entry: &&Arc<Entry>| {
        bytes += entry.weight();
        matches!(entry.what, What::Said(_)) && entry.turn == first.turn && bytes <= PIECE_BYTES
    };
    entries.iter().take_while(fits).count().max(1)
}

fn write_records(out: &mut Vec<u8>, entries: &[Arc<Entry>]) {
    let mut series = SeriesWriter::default();
    for entry in entries {
        let What::Said(event) = &entry.what else { continue };
        let head = out.len();
        out.extend(entry.at_ms.to_le_bytes());
        out.extend([0; HEAD_BYTES - 8]);
        series.write(out, event);
        // No event is larger than a message may be, which is far below 4 GiB.
        let length = u32::try_from(out.len() - head - HEAD_BYTES).unwrap_or(u32::MAX);
        out[head + 8..head + HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
    }
}

impl Extent {
    fn bytes(&self) -> u64 {
        self.length as u64
    }

    /// The number of its last entry.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.last
    }

    /// Reads the entries. Blocks.
    ///
    /// # Errors
    /// The system cannot read the file, or what it reads is not what was written.
    pub fn read(&self) -> io::Result<Vec<Arc<Entry>>> {
        let mut text = vec![0; self.length];
        self.file.read_exact_at(&mut text, self.at)?;
        let mut series = SeriesReader::default();
        let mut entries = Vec::new();
        let mut rest = text.as_slice();
        let mut seq = self.first;
        while !rest.is_empty() {
            let (at_ms, event);
            (at_ms, event, rest) = next_record(rest, &mut series)?;
            entries.push(Arc::new(Entry { seq, turn: self.turn.clone(), at_ms, what: What::Said(event) }));
            seq = seq.next();
        }
        if seq != self.last.next() {
            return Err(damaged("records are missing"));
        }
        Ok(entries)
    }
}

fn next_record<'a>(text: &'a [u8], series: &mut SeriesReader) -> io::Result<(u64, Event, &'a [u8])> {
    let cut = || damaged("a record is cut");
    let (at_ms, rest) = text.split_first_chunk().ok_or_else(cut)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?;
    let (record, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
    let event = series.read(record).map_err(|error| damaged(&error.to_string()))?;
    Ok((u64::from_le_bytes(*at_ms), event, rest))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the spill file is damaged: {what}"))
}

#[cfg(test)]
mod tests;
