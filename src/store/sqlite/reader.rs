//! What is read: a session at its first turn, and pages of its events.
//!
//! Owns the way back from the rows. A piece that cannot be read is told of and left out; the rest of the session goes on.

use super::chunk::{Chunk, Kind, Piece};
use super::spans::{HAS_STATE, HAS_TURN, Span, Unindexed};
use super::writer::last_of;
use super::{signed, unsigned};
use crate::model::{Entry, Outcome, RawJson, Repeat, Seq, SessionId, StateChange, StateIn, TurnId, TurnRequest, What};
use crate::store::{Interrupted, NewestTurn, Page, StoredSession, StoredTurn};
use crate::wire::stored::{read_accepted, read_event, read_outcome};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The turns of a session that are read at its first turn; the engine remembers no more.
const TURNS: usize = 100;
/// And no more of their answers, in bytes.
const TURN_BYTES: usize = 64 << 20;

/// A connection of its own: reading never waits for a commit.
pub(super) struct Reader {
    connection: Connection,
    unindexed: Unindexed,
}

impl Reader {
    pub(super) fn new(connection: Connection, unindexed: Unindexed) -> Self {
        Self { connection, unindexed }
    }

    fn number(&self, id: &SessionId) -> rusqlite::Result<Option<i64>> {
        let mut find = self.connection.prepare_cached("SELECT id FROM sessions WHERE name = ?")?;
        find.query_row([id.as_str()], |row| row.get(0)).optional()
    }

    pub(super) fn session_of(&self, turn: &TurnId) -> rusqlite::Result<Option<SessionId>> {
        let mut find = self.connection.prepare_cached("SELECT session FROM promised WHERE turn = ?")?;
        let name: Option<String> = find.query_row([turn.as_str()], |row| row.get(0)).optional()?;
        Ok(name.and_then(|name| SessionId::new(&name).ok()))
    }

    pub(super) fn session(&self, id: &SessionId) -> rusqlite::Result<Option<StoredSession>> {
        let Some(number) = self.number(id)? else { return Ok(None) };
        let mut past = Past::default();
        // Those in memory first: one that goes into the index meanwhile is met twice, and one that came late not at all.
        let newest = self.unindexed.of(number);
        let oldest_newest = newest.first().map_or(i64::MAX, |span| span.chunk);
        for span in newest.iter().rev() {
            past.look(&self.connection, id, *span)?;
        }
        let find = "SELECT first, chunk, flags FROM spans WHERE session = ? AND flags <> 0
                    ORDER BY first DESC, chunk DESC";
        let mut find = self.connection.prepare_cached(find)?;
        let mut rows = find.query([number])?;
        while !past.is_complete()
            && let Some(row) = rows.next()?
        {
            let span = Span { first: row.get(0)?, chunk: row.get(1)?, flags: row.get(2)?, entries: 0 };
            if span.chunk < oldest_newest {
                past.look(&self.connection, id, span)?;
            }
        }
        let state = match past.state {
            StateChange::Set(state) => Some(state),
            StateChange::Clear => None,
            StateChange::Keep => {
                let kept = "SELECT state FROM kept WHERE session = ?";
                let kept = self.connection.prepare_cached(kept)?.query_row([number], |row| row.get(0)).optional()?;
                kept.flatten().map(|state: String| RawJson::from_valid(state))
            }
        };
        let last = last_of(&self.connection, &self.unindexed, number)?;
        past.settled.reverse();
        Ok(Some(StoredSession {
            last: Seq(unsigned(last)),
            state,
            settled: past.settled,
            newest: past.newest,
            interrupted: past.interrupted,
        }))
    }

    pub(super) fn events(&self, id: &SessionId, after: Seq, max_bytes: usize) -> rusqlite::Result<Page> {
        let mut page = Page::default();
        let Some(number) = self.number(id)? else { return Ok(page) };
        let after = signed(after.0);
        let newest = self.unindexed.of(number);
        let mut bytes = 0;
        let begin = "SELECT coalesce(max(first), 0) FROM spans WHERE session = ? AND first <= ?";
        let begin: i64 =
            self.connection.prepare_cached(begin)?.query_row(params![number, after + 1], |row| row.get(0))?;
        let find = "SELECT first, chunk FROM spans WHERE session = ? AND first >= ? AND entries > 0
                    ORDER BY first, chunk";
        let mut find = self.connection.prepare_cached(find)?;
        let mut rows = find.query(params![number, begin])?;
        let mut indexed = 0;
        while let Some(row) = rows.next()? {
            indexed = row.get(1)?;
            if !self.add(&mut page, id, row.get(0)?, indexed, after, (&mut bytes, max_bytes))? {
                return Ok(page);
            }
        }
        for span in newest.iter().filter(|span| span.chunk > indexed && span.entries > 0) {
            let is_over = span.first + span.entries <= after + 1;
            if !is_over && !self.add(&mut page, id, span.first, span.chunk, after, (&mut bytes, max_bytes))? {
                break;
            }
        }
        Ok(page)
    }

    /// Adds the entries of a row that come after `after`; false when the page is full.
    fn add(
        &self,
        page: &mut Page,
        id: &SessionId,
        first: i64,
        chunk: i64,
        after: i64,
        (bytes, most): (&mut usize, usize),
    ) -> rusqlite::Result<bool> {
        let Some(body) = body(&self.connection, chunk)? else { return Ok(true) };
        let pieces = Chunk::new(&body).filter(|piece| piece.kind != Kind::Delivered);
        for (seq, piece) in (first..).zip(pieces).skip_while(|(seq, _)| *seq <= after) {
            let Some(what) = what(&piece, id) else {
                tracing::error!(session = %id, seq, "an entry could not be read");
                continue;
            };
            let turn = TurnId::from_drawn(piece.turn.to_owned());
            let entry = Entry { seq: Seq(unsigned(seq)), turn, at_ms: piece.at_ms, what };
            if *bytes > 0 && *bytes + entry.weight() > most {
                return Ok(false);
            }
            *bytes += entry.weight();
            page.entries.push(Arc::new(entry));
        }
        Ok(true)
    }
}

fn body(connection: &Connection, chunk: i64) -> rusqlite::Result<Option<Vec<u8>>> {
    connection.prepare_cached("SELECT body FROM chunks WHERE id = ?")?.query_row([chunk], |row| row.get(0)).optional()
}

/// What a row did to the state, all in all.
pub(super) fn last_state(connection: &Connection, chunk: i64) -> rusqlite::Result<StateChange> {
    let Some(body) = body(connection, chunk)? else { return Ok(StateChange::Keep) };
    let anyone = SessionId::scoped("store", "any");
    let states = Chunk::new(&body).filter_map(|piece| match what(&piece, &anyone)? {
        What::Accepted { request, .. } => match &request.state {
            StateIn::Given(state) => Some(given(state.as_ref())),
            StateIn::Stored => None,
        },
        What::Ended(outcome) => (outcome.state != StateChange::Keep).then(|| outcome.state.clone()),
        What::Said(_) => None,
    });
    Ok(states.last().unwrap_or_default())
}

fn given(state: Option<&RawJson>) -> StateChange {
    state.map_or(StateChange::Clear, |state| StateChange::Set(state.clone()))
}

/// A session's past as it is put together, from its newest row to older ones.
#[derive(Default)]
struct Past {
    /// The newest change of the state that was met.
    state: StateChange,
    /// Newest first.
    settled: Vec<StoredTurn>,
    newest: Option<NewestTurn>,
    settled_bytes: usize,
    interrupted: Vec<Interrupted>,
    /// Ends whose beginnings were not met yet.
    ends: HashMap<TurnId, Arc<Outcome>>,
    delivered: HashSet<TurnId>,
    /// Keys of turns that were begun: an earlier attempt of the same is none that could be gone on from.
    begun: Vec<Repeat>,
}

impl Past {
    fn has_turns(&self) -> bool {
        self.settled.len() + self.interrupted.len() >= TURNS || self.settled_bytes >= TURN_BYTES
    }

    fn is_complete(&self) -> bool {
        self.has_turns() && self.state != StateChange::Keep
    }

    fn look(&mut self, connection: &Connection, id: &SessionId, span: Span) -> rusqlite::Result<()> {
        let wants_turn = span.flags & HAS_TURN != 0 && !self.has_turns();
        let wants_state = span.flags & HAS_STATE != 0 && self.state == StateChange::Keep;
        if !wants_turn && !wants_state {
            return Ok(());
        }
        let Some(body) = body(connection, span.chunk)? else { return Ok(()) };
        let pieces: Vec<Piece<'_>> = Chunk::new(&body).filter(|piece| piece.kind != Kind::Said).collect();
        for piece in pieces.into_iter().rev() {
            let turn = TurnId::from_drawn(piece.turn.to_owned());
            if piece.kind == Kind::Delivered {
                self.delivered.insert(turn);
                continue;
            }
            match what(&piece, id) {
                Some(What::Accepted { attempt, request }) => {
                    self.began(turn, attempt, &request, Seq(unsigned(span.first)));
                }
                Some(What::Ended(outcome)) => {
                    if self.state == StateChange::Keep {
                        self.state = outcome.state.clone();
                    }
                    if outcome.is_recorded() {
                        self.ends.insert(turn, outcome);
                    }
                }
                Some(What::Said(_)) | None => {
                    tracing::error!(session = %id, %turn, "the beginning or the end of a turn could not be read");
                }
            }
        }
        Ok(())
    }

    fn began(&mut self, id: TurnId, attempt: u32, request: &TurnRequest, from: Seq) {
        if self.newest.is_none() {
            let (outcome, repeat) = (self.ends.get(&id).cloned(), request.repeat.clone());
            self.newest = Some(NewestTurn { id: id.clone(), from, repeat, outcome });
        }
        if let (StateChange::Keep, StateIn::Given(state)) = (&self.state, &request.state) {
            self.state = given(state.as_ref());
        }
        let repeat = request.repeat.clone();
        match self.ends.remove(&id) {
            Some(_) if repeat == Repeat::Never => {}
            Some(outcome) => {
                self.settled_bytes += outcome.weight();
                self.begun.push(repeat.clone());
                let is_delivered = self.delivered.remove(&id);
                self.settled.push(StoredTurn { id, repeat, outcome, is_delivered });
            }
            None if repeat == Repeat::Never || self.begun.contains(&repeat) => {}
            None => {
                self.begun.push(repeat.clone());
                self.interrupted.push(Interrupted { id, repeat, attempt });
            }
        }
    }
}

fn what(piece: &Piece<'_>, id: &SessionId) -> Option<What> {
    match piece.kind {
        Kind::Accepted => {
            let mut request = TurnRequest::new(id.clone(), "unknown", "");
            let attempt = read_accepted(piece.record, &mut request)?;
            Some(What::Accepted { attempt, request: Arc::new(request) })
        }
        Kind::Ended => read_outcome(piece.record).map(|outcome| What::Ended(Arc::new(outcome))),
        Kind::Said => read_event(piece.record).map(What::Said),
        Kind::Delivered => None,
    }
}
