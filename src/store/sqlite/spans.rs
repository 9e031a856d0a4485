//! Where the rows of a session are.
//!
//! Owns the way from a session and a number to rows of the log. The log itself grows at its end only, whatever sessions
//! write, which is what makes a commit cheap; an index that was written with every row would touch a page per session
//! and commit. So the newest rows are known in memory alone, and go into the index some hundred at once, in the same
//! commit as the rows of that moment. What is not in the index is found again when the store is opened.

use rusqlite::{Connection, params};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// So many rows are in memory alone at most, besides those of one commit.
const UNINDEXED: usize = 1024;

/// A row holds the beginning or the end of a turn, or that its answer was delivered.
pub(super) const HAS_TURN: i64 = 1;
/// A row changes the session's state.
pub(super) const HAS_STATE: i64 = 2;

/// One row of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    /// The number of its first entry, or of the entry that comes next where it has none.
    pub(super) first: i64,
    /// The row. Rises, as `first` does.
    pub(super) chunk: i64,
    pub(super) flags: i64,
    /// How many entries it has.
    pub(super) entries: i64,
}

/// The rows that are not in the index, shared by the writer and the readers.
#[derive(Debug, Default, Clone)]
pub(super) struct Unindexed(Arc<Mutex<Newest>>);

#[derive(Debug, Default)]
struct Newest {
    by_session: HashMap<i64, Vec<Span>>,
    rows: usize,
}

impl Unindexed {
    /// What the index does not have yet; `upto` is the last row that it has.
    pub(super) fn open(connection: &Connection, upto: i64) -> rusqlite::Result<Self> {
        let unindexed = Self::default();
        let mut find = connection
            .prepare("SELECT session, first, id, flags, last - first + 1 FROM chunks WHERE id > ? ORDER BY id")?;
        let mut rows = find.query([upto])?;
        while let Some(row) = rows.next()? {
            let (first, chunk, flags, entries) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            unindexed.add(row.get(0)?, Span { first, chunk, flags, entries });
        }
        Ok(unindexed)
    }

    pub(super) fn add(&self, session: i64, span: Span) {
        let mut newest = self.newest();
        newest.by_session.entry(session).or_default().push(span);
        newest.rows += 1;
    }

    /// Those of a session, oldest first.
    pub(super) fn of(&self, session: i64) -> Vec<Span> {
        self.newest().by_session.get(&session).cloned().unwrap_or_default()
    }

    /// Whether it is time to write the index.
    pub(super) fn is_full(&self) -> bool {
        self.newest().rows >= UNINDEXED
    }

    pub(super) fn is_empty(&self) -> bool {
        self.newest().rows == 0
    }

    /// Writes them into the index, session by session. They stay known here until [`Unindexed::clear`], which comes
    /// behind the commit.
    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let newest = self.newest();
        let insert = "INSERT INTO spans (session, first, chunk, flags, entries) VALUES (?, ?, ?, ?, ?)";
        let mut insert = connection.prepare_cached(insert)?;
        let (mut upto, mut entries) = (0, 0);
        for (session, spans) in &newest.by_session {
            for span in spans {
                insert.execute(params![session, span.first, span.chunk, span.flags, span.entries])?;
                upto = upto.max(span.chunk);
                entries += span.entries;
            }
        }
        connection.prepare_cached("UPDATE indexed SET upto = ?, entries = entries + ?")?.execute([upto, entries])?;
        Ok(())
    }

    pub(super) fn clear(&self) {
        let mut newest = self.newest();
        newest.by_session.clear();
        newest.rows = 0;
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
