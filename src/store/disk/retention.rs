//! What is kept no longer: by age, by size and by count, the oldest first.
//!
//! Owns the limits and the removal, in steps that are short enough to come between two commits. What a session is beyond
//! its events stays: the number of its last one, so that none is given twice, and its state. Only with its age a session
//! goes as a whole.

use super::index::Index;
use super::reader::last_state;
use super::segments::{LogReader, Record};
use super::spans::{HAS_STATE, Unindexed};
use super::{Broken, now_ms, signed};
use crate::model::{SessionId, StateChange};
use crate::store::Keep;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::collections::BTreeMap;
use std::time::Duration;

/// Records that are removed at once.
const STEP: usize = 256;

/// The limits, and when to look.
pub(super) struct Retention {
    keep: Keep,
    /// There was more to remove than one step takes.
    is_behind: bool,
}

/// What is left of a session whose records go.
#[derive(Default)]
struct Left {
    last: i64,
    /// What the records that go did to the state.
    state: StateChange,
    is_old: bool,
}

impl Retention {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, is_behind: false }
    }

    /// How long to wait until the next step.
    pub(super) fn every(&self) -> Duration {
        if self.is_behind { Duration::from_millis(50) } else { self.keep.every }
    }

    /// Removes what is beyond the limits; `end` is the end of the log. Tells how many records went.
    pub(super) fn step(&mut self, index: &mut Index, unindexed: &Unindexed, end: i64) -> Result<usize, Broken> {
        self.is_behind = false;
        let oldest_kept = now_ms().saturating_sub(u64::try_from(self.keep.age.as_millis()).unwrap_or(u64::MAX));
        let most_bytes = signed(self.keep.bytes).saturating_sub(used_bytes(&index.connection)?);
        let most_entries = signed(self.keep.events);
        let mut log = LogReader::new(index.segments.clone());
        let transaction = index.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let find = "SELECT begin, upto, entries FROM indexed";
        let (noted, upto, mut entries): (i64, i64, i64) =
            transaction.query_row(find, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        // What lies before the first file was removed, and that not noted.
        let mut begin = noted.max(index.segments.begin());
        let mut gone = 0;
        let mut left: BTreeMap<SessionId, Left> = BTreeMap::new();
        // What is not in the index yet is left alone.
        while begin < upto {
            let Some(record) = log.read(begin)? else {
                tracing::error!(position = begin, "a record of the log cannot be read; what is behind it stays");
                break;
            };
            let is_old = record.head.at < oldest_kept;
            if !is_old && end - begin <= most_bytes && entries <= most_entries {
                break;
            }
            if gone >= STEP {
                self.is_behind = true;
                break;
            }
            entries -= record.head.last - record.head.first + 1;
            forget(&transaction, begin, &record)?;
            left.entry(record.head.session.clone()).or_default().add(&record, is_old);
            begin = record.end;
            gone += 1;
        }
        for (session, left) in left {
            keep(&transaction, &session, unindexed, left)?;
        }
        let old = "DELETE FROM promised WHERE request IS NULL AND at < ?";
        transaction.prepare_cached(old)?.execute([signed(oldest_kept)])?;
        // A server with nothing to do writes nothing.
        if gone > 0 {
            transaction.prepare_cached("UPDATE indexed SET begin = ?, entries = ?")?.execute([begin, entries])?;
        }
        transaction.commit()?;
        index.segments.remove_before(begin)?;
        Ok(gone)
    }
}

impl Left {
    fn add(&mut self, record: &Record, is_old: bool) {
        self.last = record.head.last;
        self.is_old = is_old;
        if record.head.flags & HAS_STATE != 0 {
            self.state = match last_state(&record.body) {
                StateChange::Keep => std::mem::take(&mut self.state),
                change => change,
            };
        }
    }
}

fn forget(connection: &Connection, chunk: i64, record: &Record) -> rusqlite::Result<()> {
    let delete =
        "DELETE FROM spans WHERE session = (SELECT id FROM sessions WHERE name = ?) AND first = ? AND chunk = ?";
    let values = params![record.head.session.as_str(), record.head.first, chunk];
    connection.prepare_cached(delete)?.execute(values)?;
    Ok(())
}

fn keep(connection: &Connection, session: &SessionId, unindexed: &Unindexed, left: Left) -> rusqlite::Result<()> {
    let Some(number) = super::index::number_of(connection, session)? else { return Ok(()) };
    let newest = "SELECT 1 FROM spans WHERE session = ? LIMIT 1";
    let has_more = !unindexed.of(session).is_empty()
        || connection.prepare_cached(newest)?.query_row([number], |_| Ok(())).optional()?.is_some();
    if left.is_old && !has_more {
        connection.prepare_cached("DELETE FROM kept WHERE session = ?")?.execute([number])?;
        connection.prepare_cached("DELETE FROM sessions WHERE id = ?")?.execute([number])?;
        return Ok(());
    }
    let upsert = "INSERT INTO kept (session, last) VALUES (?1, ?2) ON CONFLICT (session) DO UPDATE SET last = ?2";
    connection.prepare_cached(upsert)?.execute(params![number, left.last])?;
    let state = match &left.state {
        StateChange::Keep => return Ok(()),
        StateChange::Clear => None,
        StateChange::Set(state) => Some(state.as_str()),
    };
    connection.prepare_cached("UPDATE kept SET state = ? WHERE session = ?")?.execute(params![state, number])?;
    Ok(())
}

/// The bytes of the index that hold something.
fn used_bytes(connection: &Connection) -> rusqlite::Result<i64> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    Ok((pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?)
}
