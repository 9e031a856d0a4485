//! The index: which records are whose, what is left of those that are gone, and what was promised.
//!
//! Owns what is written to SQLite. The log is what counts: the index follows behind it, some thousand records at once, after
//! they were brought to the disk, and what it lacks is read from the log when the store is opened. So a commit of the log
//! and one of the index need no common transaction.

use super::segments::Segments;
use super::spans::{Newest, Unindexed};
use super::{Broken, now_ms, signed};
use crate::failpoint;
use crate::model::{SessionId, TurnId};
use crate::store::Promised;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

/// The writing end of the index.
pub(super) struct Index {
    pub(super) connection: Connection,
    pub(super) segments: Segments,
}

impl Index {
    /// Writes records that are in memory alone so far, all or none. They stay known there until they are taken out.
    pub(super) fn write(&mut self, newest: &Newest) -> Result<(), Broken> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut number = transaction.prepare_cached(
                "INSERT INTO sessions (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET name = name RETURNING id",
            )?;
            let insert = "INSERT OR IGNORE INTO spans (session, first, chunk, flags, entries) VALUES (?, ?, ?, ?, ?)";
            let mut insert = transaction.prepare_cached(insert)?;
            let mut entries = 0;
            for (session, spans) in &newest.by_session {
                let number: i64 = number.query_row([session.as_str()], |row| row.get(0))?;
                for span in spans {
                    insert.execute(params![number, span.first, span.chunk, span.flags, span.entries])?;
                    entries += span.entries;
                }
            }
            let upto = "UPDATE indexed SET upto = ?, entries = entries + ?";
            transaction.prepare_cached(upto)?.execute([newest.end, entries])?;
            let mut begun = transaction.prepare_cached("UPDATE promised SET request = NULL WHERE turn = ?")?;
            for turn in &newest.begun {
                begun.execute([turn.as_str()])?;
            }
        }
        failpoint::reach("index-written");
        Ok(transaction.commit()?)
    }

    pub(super) fn promise(&self, promised: &Promised) -> Result<(), Broken> {
        let insert = "INSERT OR REPLACE INTO promised (turn, session, at, request) VALUES (?, ?, ?, ?)";
        let (turn, session) = (promised.turn.as_str(), promised.session.as_str());
        let values = params![turn, session, signed(now_ms()), promised.request];
        self.connection.prepare_cached(insert)?.execute(values)?;
        Ok(())
    }

    pub(super) fn withdraw(&self, turn: &TurnId) -> Result<(), Broken> {
        let delete = "DELETE FROM promised WHERE turn = ?";
        self.connection.prepare_cached(delete)?.execute([turn.as_str()])?;
        Ok(())
    }
}

/// The turns that were promised and have not begun, by the index.
pub(super) fn promised(connection: &Connection) -> rusqlite::Result<Vec<Promised>> {
    let mut find =
        connection.prepare("SELECT turn, session, request FROM promised WHERE request IS NOT NULL ORDER BY rowid")?;
    let mut rows = find.query([])?;
    let mut promised = Vec::new();
    while let Some(row) = rows.next()? {
        let session = SessionId::kept(&row.get::<_, String>(1)?);
        promised.push(Promised { turn: TurnId::from_drawn(row.get(0)?), session, request: row.get(2)? });
    }
    Ok(promised)
}

/// The number of a session in the index.
pub(super) fn number_of(connection: &Connection, session: &SessionId) -> rusqlite::Result<Option<i64>> {
    let mut find = connection.prepare_cached("SELECT id FROM sessions WHERE name = ?")?;
    find.query_row([session.as_str()], |row| row.get(0)).optional()
}

/// The number of a session's last entry.
pub(super) fn last_of(connection: &Connection, unindexed: &Unindexed, session: &SessionId) -> rusqlite::Result<i64> {
    // Not the last one's: that an answer was delivered may be noted behind entries that came meanwhile.
    if let Some(last) = unindexed.of(session).iter().map(|span| span.first + span.entries - 1).max() {
        return Ok(last);
    }
    let Some(number) = number_of(connection, session)? else { return Ok(0) };
    let find = "SELECT first + entries - 1 FROM spans WHERE session = ? ORDER BY first DESC, chunk DESC LIMIT 1";
    let indexed = connection.prepare_cached(find)?.query_row([number], |row| row.get(0)).optional()?;
    if let Some(last) = indexed {
        return Ok(last);
    }
    let kept = connection.prepare_cached("SELECT last FROM kept WHERE session = ?")?;
    Ok({ kept }.query_row([number], |row| row.get(0)).optional()?.unwrap_or_default())
}
