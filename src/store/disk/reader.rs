//! What is read: a session at its first turn, and pages of its events.
//!
//! Owns the way back from the records. A piece that cannot be read is told of and left out; the rest of the session goes on.

use super::appender::keeps_promise;
use super::chunk::{Chunk, Kind, Piece};
use super::index::{last_of, number_of};
use super::segments::LogReader;
use super::spans::{HAS_STATE, HAS_TURN, Span, Unindexed};
use super::{Broken, signed, unsigned};
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
    log: LogReader,
    unindexed: Unindexed,
}

impl Reader {
    pub(super) fn new(connection: Connection, log: LogReader, unindexed: Unindexed) -> Self {
        Self { connection, log, unindexed }
    }

    pub(super) fn session_of(&mut self, turn: &TurnId) -> Result<Option<SessionId>, Broken> {
        let mut find = self.connection.prepare_cached("SELECT session FROM promised WHERE turn = ?")?;
        let name: Option<String> = find.query_row([turn.as_str()], |row| row.get(0)).optional()?;
        Ok(name.map(|name| SessionId::kept(&name)))
    }

    pub(super) fn session(&mut self, id: &SessionId) -> Result<Option<StoredSession>, Broken> {
        // Those in memory first: one that goes into the index meanwhile is met twice, and one that came late not at all.
        let newest = self.unindexed.of(id);
        let number = number_of(&self.connection, id)?;
        if newest.is_empty() && number.is_none() {
            return Ok(None);
        }
        let mut past = Past::default();
        for span in newest.iter().rev() {
            past.look(&mut self.log, id, *span)?;
        }
        let oldest_newest = newest.first().map_or(i64::MAX, |span| span.chunk);
        let find = "SELECT first, chunk, flags FROM spans WHERE session = ? AND flags <> 0
                    ORDER BY first DESC, chunk DESC";
        let mut find = self.connection.prepare_cached(find)?;
        let mut rows = find.query([number])?;
        while !past.is_complete()
            && let Some(row) = rows.next()?
        {
            let span = Span { first: row.get(0)?, chunk: row.get(1)?, flags: row.get(2)?, entries: 0 };
            if span.chunk < oldest_newest {
                past.look(&mut self.log, id, span)?;
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
        let last = last_of(&self.connection, &self.unindexed, id)?;
        past.settled.reverse();
        Ok(Some(StoredSession {
            last: Seq(unsigned(last)),
            state,
            settled: past.settled,
            newest: past.newest,
            interrupted: past.interrupted,
        }))
    }

    pub(super) fn events(&mut self, id: &SessionId, after: Seq, max_bytes: usize) -> Result<Page, Broken> {
        let mut filling = Filling { id, after: signed(after.0), bytes: 0, most: max_bytes, page: Page::default() };
        let newest = self.unindexed.of(id);
        let mut indexed = -1;
        if let Some(number) = number_of(&self.connection, id)? {
            let begin = "SELECT coalesce(max(first), 0) FROM spans WHERE session = ? AND first <= ?";
            let values = params![number, filling.after + 1];
            let begin: i64 = self.connection.prepare_cached(begin)?.query_row(values, |row| row.get(0))?;
            let find = "SELECT first, chunk FROM spans WHERE session = ? AND first >= ? AND entries > 0
                        ORDER BY first, chunk";
            let mut find = self.connection.prepare_cached(find)?;
            let mut rows = find.query(params![number, begin])?;
            while let Some(row) = rows.next()? {
                indexed = row.get(1)?;
                if !filling.add(&mut self.log, row.get(0)?, indexed)? {
                    return Ok(filling.page);
                }
            }
        }
        for span in newest.iter().filter(|span| span.chunk > indexed && span.entries > 0) {
            let is_over = span.first + span.entries <= filling.after + 1;
            if !is_over && !filling.add(&mut self.log, span.first, span.chunk)? {
                break;
            }
        }
        Ok(filling.page)
    }
}

/// A page that is being filled.
struct Filling<'a> {
    id: &'a SessionId,
    after: i64,
    bytes: usize,
    most: usize,
    page: Page,
}

impl Filling<'_> {
    /// Adds the entries of a record that come after `after`; false when the page is full.
    fn add(&mut self, log: &mut LogReader, first: i64, chunk: i64) -> Result<bool, Broken> {
        let Some(record) = log.read(chunk)? else { return Ok(true) };
        let pieces = Chunk::new(&record.body).filter(|piece| piece.kind != Kind::Delivered);
        for (seq, piece) in (first..).zip(pieces).skip_while(|(seq, _)| *seq <= self.after) {
            let Some(what) = what(&piece, self.id) else {
                tracing::error!(session = %self.id, seq, "an entry could not be read");
                continue;
            };
            let turn = TurnId::from_drawn(piece.turn.to_owned());
            let entry = Entry { seq: Seq(unsigned(seq)), turn, at_ms: piece.at_ms, what };
            if self.bytes > 0 && self.bytes + entry.weight() > self.most {
                return Ok(false);
            }
            self.bytes += entry.weight();
            self.page.entries.push(Arc::new(entry));
        }
        Ok(true)
    }
}

/// What a record did to the state, all in all.
pub(super) fn last_state(body: &[u8]) -> StateChange {
    let anyone = SessionId::scoped("store", "any");
    let states = Chunk::new(body).filter_map(|piece| match what(&piece, &anyone)? {
        What::Accepted { request, .. } => match &request.state {
            StateIn::Given(state) => Some(given(state.as_ref())),
            StateIn::Stored => None,
        },
        What::Ended(outcome) => (outcome.state != StateChange::Keep).then(|| outcome.state.clone()),
        What::Said(_) => None,
    });
    states.last().unwrap_or_default()
}

/// The turns that keep what was promised in a record: those that begin or end in it.
pub(super) fn begun(body: &[u8]) -> Vec<TurnId> {
    let anyone = SessionId::scoped("store", "any");
    let turns = Chunk::new(body).filter_map(|piece| {
        let what = what(&piece, &anyone)?;
        keeps_promise(&what).then(|| TurnId::from_drawn(piece.turn.to_owned()))
    });
    turns.collect()
}

fn given(state: Option<&RawJson>) -> StateChange {
    state.map_or(StateChange::Clear, |state| StateChange::Set(state.clone()))
}

/// A session's past as it is put together, from its newest record to older ones.
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

    fn look(&mut self, log: &mut LogReader, id: &SessionId, span: Span) -> Result<(), Broken> {
        let wants_turn = span.flags & HAS_TURN != 0 && !self.has_turns();
        let wants_state = span.flags & HAS_STATE != 0 && self.state == StateChange::Keep;
        if !wants_turn && !wants_state {
            return Ok(());
        }
        let Some(record) = log.read(span.chunk)? else { return Ok(()) };
        let pieces: Vec<Piece<'_>> = Chunk::new(&record.body).filter(|piece| piece.kind != Kind::Said).collect();
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
