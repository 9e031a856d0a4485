//! What is kept no longer: by age, by size and by count, the oldest first.
//!
//! Owns the limits and the removal, in steps that are short enough to come between two commits. What a session is beyond
//! its events stays: the number of its last one, so that none is given twice, and its state. Only with its age a session
//! goes as a whole.

use super::now_ms;
use super::reader::last_state;
use super::spans::HAS_STATE;
use crate::model::StateChange;
use crate::store::Keep;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::time::Duration;

/// Rows that are removed at once.
const STEP: usize = 256;

/// The limits, and when to look.
pub(super) struct Retention {
    keep: Keep,
    /// There was more to remove than one step takes.
    is_behind: bool,
}

/// What is left of a session whose rows go.
#[derive(Default)]
struct Left {
    last: i64,
    /// What the rows that go did to the state.
    state: StateChange,
    is_old: bool,
}

struct Oldest {
    id: i64,
    session: i64,
    first: i64,
    last: i64,
    at: u64,
    flags: i64,
    bytes: i64,
}

impl Retention {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, is_behind: false }
    }

    /// How long to wait until the next step.
    pub(super) fn every(&self) -> Duration {
        if self.is_behind { Duration::from_millis(50) } else { self.keep.every }
    }

    /// Removes what is beyond the limits, in the transaction that is open. Tells how many rows went.
    pub(super) fn step(&mut self, connection: &Connection) -> rusqlite::Result<usize> {
        self.is_behind = false;
        let (upto, mut entries): (i64, i64) =
            connection.query_row("SELECT upto, entries FROM indexed", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut bytes = used_bytes(connection)?;
        let oldest_kept = now_ms().saturating_sub(u64::try_from(self.keep.age.as_millis()).unwrap_or(u64::MAX));
        let most = |limit: u64| i64::try_from(limit).unwrap_or(i64::MAX);
        let (most_bytes, most_entries) = (most(self.keep.bytes), most(self.keep.events));
        let mut gone = Vec::new();
        let mut left: BTreeMap<i64, Left> = BTreeMap::new();
        {
            let find = "SELECT id, session, first, last, at, flags, length(body) FROM chunks WHERE id <= ? ORDER BY id";
            let mut find = connection.prepare_cached(find)?;
            let mut rows = find.query([upto])?;
            while let Some(row) = rows.next()? {
                let oldest = Oldest {
                    id: row.get(0)?,
                    session: row.get(1)?,
                    first: row.get(2)?,
                    last: row.get(3)?,
                    at: super::unsigned(row.get(4)?),
                    flags: row.get(5)?,
                    bytes: row.get(6)?,
                };
                let is_old = oldest.at < oldest_kept;
                if !is_old && bytes <= most_bytes && entries <= most_entries {
                    break;
                }
                if gone.len() >= STEP {
                    self.is_behind = true;
                    break;
                }
                bytes -= oldest.bytes;
                entries -= oldest.last - oldest.first + 1;
                let session = left.entry(oldest.session).or_default();
                session.last = oldest.last;
                session.is_old = is_old;
                if oldest.flags & HAS_STATE != 0 {
                    session.state = match last_state(connection, oldest.id)? {
                        StateChange::Keep => std::mem::take(&mut session.state),
                        change => change,
                    };
                }
                gone.push(oldest);
            }
        }
        for row in &gone {
            let delete = "DELETE FROM spans WHERE session = ? AND first = ? AND chunk = ?";
            connection.prepare_cached(delete)?.execute(params![row.session, row.first, row.id])?;
            connection.prepare_cached("DELETE FROM chunks WHERE id = ?")?.execute([row.id])?;
        }
        for (session, left) in left {
            keep(connection, session, left)?;
        }
        let old = "DELETE FROM promised WHERE request IS NULL AND at < ?";
        connection.prepare_cached(old)?.execute([super::signed(oldest_kept)])?;
        if gone.is_empty() {
            // A server with nothing to do writes nothing.
            return Ok(0);
        }
        connection.prepare_cached("UPDATE indexed SET entries = ?")?.execute([entries])?;
        Ok(gone.len())
    }
}

fn keep(connection: &Connection, session: i64, left: Left) -> rusqlite::Result<()> {
    let newest = "SELECT 1 FROM chunks WHERE session = ?1 AND id > (SELECT upto FROM indexed)
                  UNION ALL SELECT 1 FROM spans WHERE session = ?1 LIMIT 1";
    if left.is_old && connection.prepare_cached(newest)?.query_row([session], |_| Ok(())).optional()?.is_none() {
        connection.prepare_cached("DELETE FROM kept WHERE session = ?")?.execute([session])?;
        connection.prepare_cached("DELETE FROM sessions WHERE id = ?")?.execute([session])?;
        return Ok(());
    }
    let upsert = "INSERT INTO kept (session, last) VALUES (?1, ?2) ON CONFLICT (session) DO UPDATE SET last = ?2";
    connection.prepare_cached(upsert)?.execute(params![session, left.last])?;
    let state = match &left.state {
        StateChange::Keep => return Ok(()),
        StateChange::Clear => None,
        StateChange::Set(state) => Some(state.as_str()),
    };
    connection.prepare_cached("UPDATE kept SET state = ? WHERE session = ?")?.execute(params![state, session])?;
    Ok(())
}

/// The bytes of the file that hold something.
fn used_bytes(connection: &Connection) -> rusqlite::Result<i64> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    Ok((pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?)
}
