//! What is read: a session at its first turn, and pages of its events.
//!
//! Owns the way back from the tables. A row that cannot be read is told of and left out; the rest of the session goes on.

use super::writer::{ACCEPTED, BY_BODY, BY_ID, BY_ID_REFUSING, ENDED, signed};
use crate::model::{Conflict, Entry, Fingerprint, RawJson, Repeat, Seq, SessionId, TurnId, TurnRequest, What};
use crate::store::{Interrupted, Page, StoredSession, StoredTurn};
use crate::wire::stored::{read_accepted, read_event, read_outcome};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::sync::Arc;

/// The turns of a session that are read at its first turn; the engine remembers no more.
const TURNS: i64 = 100;

/// A connection of its own: reading never waits for a commit.
pub(super) struct Reader {
    connection: Connection,
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

impl Reader {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    pub(super) fn session(&self, id: &SessionId) -> rusqlite::Result<Option<StoredSession>> {
        let mut find = self.connection.prepare_cached("SELECT id, last, state FROM sessions WHERE name = ?")?;
        let found = find.query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let Some((number, last, state)): Option<(i64, i64, Option<String>)> = found.optional()? else {
            return Ok(None);
        };
        let mut session = StoredSession {
            last: Seq(unsigned(last)),
            state: state.map(RawJson::from_valid),
            ..StoredSession::default()
        };
        let newest = "SELECT turn, attempt, kind, key, body, outcome, delivered FROM turns
                      WHERE session = ? ORDER BY seq DESC LIMIT ?";
        let mut turns = self.connection.prepare_cached(newest)?;
        let mut rows = turns.query(params![number, TURNS])?;
        while let Some(row) = rows.next()? {
            let repeat = repeat(row)?;
            match row.get::<_, Option<String>>(5)? {
                Some(text) => {
                    let Some(outcome) = read_outcome(text.as_bytes()) else {
                        tracing::error!(session = %id, "the outcome of a turn could not be read");
                        continue;
                    };
                    let turn = TurnId::from_drawn(row.get(0)?);
                    let is_delivered = row.get(6)?;
                    session.settled.push(StoredTurn { id: turn, repeat, outcome: Arc::new(outcome), is_delivered });
                }
                None => session.interrupted.push(Interrupted { repeat, attempt: row.get(1)? }),
            }
        }
        session.settled.reverse();
        Ok(Some(session))
    }

    pub(super) fn events(&self, id: &SessionId, after: Seq, max_bytes: usize) -> rusqlite::Result<Page> {
        let page = "SELECT e.seq, e.turn, e.at, e.kind, e.record FROM events e JOIN sessions s ON s.id = e.session
                    WHERE s.name = ? AND e.seq > ? ORDER BY e.seq";
        let mut find = self.connection.prepare_cached(page)?;
        let mut rows = find.query(params![id.as_str(), signed(after.0)])?;
        let (mut page, mut bytes) = (Page::default(), 0);
        while let Some(row) = rows.next()? {
            let Some(what) = what(row, id)? else {
                // A page has no holes: what cannot be read ends it, or is a gap before it.
                if page.entries.is_empty() {
                    continue;
                }
                break;
            };
            let turn = TurnId::from_drawn(row.get(1)?);
            let entry = Entry { seq: Seq(unsigned(row.get(0)?)), turn, at_ms: unsigned(row.get(2)?), what };
            if bytes > 0 && bytes + entry.weight() > max_bytes {
                break;
            }
            bytes += entry.weight();
            page.entries.push(Arc::new(entry));
        }
        Ok(page)
    }
}

fn repeat(row: &Row<'_>) -> rusqlite::Result<Repeat> {
    let (kind, key, body): (i64, Option<String>, Option<[u8; 16]>) = (row.get(2)?, row.get(3)?, row.get(4)?);
    Ok(match (kind, key, body) {
        (BY_BODY, _, Some(body)) => Repeat::ByBody { body: Fingerprint(body) },
        (BY_ID | BY_ID_REFUSING, Some(id), Some(body)) => {
            let conflict = if kind == BY_ID { Conflict::NewTurn } else { Conflict::Refuse };
            Repeat::ById { id, body: Fingerprint(body), conflict }
        }
        _ => Repeat::Never,
    })
}

fn what(row: &Row<'_>, id: &SessionId) -> rusqlite::Result<Option<What>> {
    let record = row.get_ref(4)?.as_blob()?;
    Ok(match row.get::<_, i64>(3)? {
        ACCEPTED => {
            let mut request = TurnRequest::new(id.clone(), "unknown", "");
            let attempt = read_accepted(record, &mut request);
            attempt.map(|attempt| What::Accepted { attempt, request: Arc::new(request) })
        }
        ENDED => read_outcome(record).map(|outcome| What::Ended(Arc::new(outcome))),
        _ => read_event(record).map(What::Said),
    })
}
