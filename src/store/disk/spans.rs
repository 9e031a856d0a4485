//! Where the records of a session are, as long as the index does not know.
//!
//! Owns the newest records, which are known in memory alone: an index that was written with every record would touch a page
//! per session and commit. They go into the index some thousand at once; what it lacks is found again when the store is
//! opened.

use crate::model::{SessionId, TurnId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Fewer are not worth a wait for the disk.
const SOME: usize = 256;
/// With so many it is time to write the index.
const MANY: usize = 4096;
/// More are not taken: the index cannot be written.
const TOO_MANY: usize = 32 * MANY;

/// A record holds the beginning or the end of a turn, or that its answer was delivered.
pub(super) const HAS_TURN: u8 = 1;
/// A record changes the session's state.
pub(super) const HAS_STATE: u8 = 2;

/// One record of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    /// The number of its first entry, or of the entry that comes next where it has none.
    pub(super) first: i64,
    /// Its position in the log. Rises, as `first` does.
    pub(super) chunk: i64,
    pub(super) flags: u8,
    /// How many entries it has.
    pub(super) entries: i64,
}

/// The records that are not in the index, shared by those who write and those who read.
#[derive(Debug, Default, Clone)]
pub(super) struct Unindexed(Arc<Mutex<Newest>>);

/// What the index lacks.
#[derive(Debug, Default, Clone)]
pub(super) struct Newest {
    pub(super) by_session: HashMap<SessionId, Vec<Span>>,
    /// Promised turns that have begun in them.
    pub(super) begun: Vec<TurnId>,
    /// Behind the last of them.
    pub(super) end: i64,
    spans: usize,
}

impl Unindexed {
    /// Adds what one commit has written, which ends at `end`.
    pub(super) fn add(&self, added: impl IntoIterator<Item = (SessionId, Span)>, begun: Vec<TurnId>, end: i64) {
        let mut newest = self.newest();
        for (session, span) in added {
            newest.by_session.entry(session).or_default().push(span);
            newest.spans += 1;
        }
        newest.begun.extend(begun);
        newest.end = end;
    }

    /// Those of a session, oldest first.
    pub(super) fn of(&self, session: &SessionId) -> Vec<Span> {
        self.newest().by_session.get(session).cloned().unwrap_or_default()
    }

    /// Whether the index may be written now and then.
    pub(super) fn are_some(&self) -> bool {
        self.newest().spans >= SOME
    }

    /// Whether it is time to write the index.
    pub(super) fn are_many(&self) -> bool {
        self.newest().spans >= MANY
    }

    pub(super) fn are_too_many(&self) -> bool {
        self.newest().spans >= TOO_MANY
    }

    pub(super) fn is_empty(&self) -> bool {
        self.newest().spans == 0
    }

    /// All of them, to be written into the index.
    pub(super) fn snapshot(&self) -> Newest {
        self.newest().clone()
    }

    /// Takes out what the index has now.
    pub(super) fn take_out(&self, written: &Newest) {
        let mut newest = self.newest();
        newest.by_session.retain(|_, spans| {
            spans.retain(|span| span.chunk >= written.end);
            !spans.is_empty()
        });
        newest.begun.drain(..written.begun.len());
        newest.spans = newest.by_session.values().map(Vec::len).sum();
    }

    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
