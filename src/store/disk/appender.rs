//! Batches become records at the end of the log.
//!
//! Owns what is in a record and one commit of several. Knows nothing of threads: whoever has it may write.

use super::Broken;
use super::chunk::{ChunkWriter, Kind};
use super::delivered::Delivered;
use super::health::Health;
use super::segments::{Head, LogWriter};
use super::spans::{HAS_STATE, HAS_TURN, Span, Unindexed};
use crate::failpoint;
use crate::model::{Outcome, RawJson, SessionId, StateChange, StateIn, TurnId, What};
use crate::store::{Batch, StoreError};
use crate::telemetry::metrics::metrics;
use crate::wire::stored::{GivenState, write_accepted, write_event, write_outcome};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

/// Sessions whose state is known as it was written last.
const KNOWN: usize = 4096;

/// A state, told by length and hash: a platform gives back with each turn what it was given with the one before, and there
/// is no need to keep it twice.
type Mark = (usize, u64);

pub(super) struct Appender {
    pub(super) log: LogWriter,
    /// Turns that are promised and have not begun.
    pub(super) promised: HashSet<TurnId>,
    states: HashMap<SessionId, Mark>,
    hasher: RandomState,
    chunk: ChunkWriter,
    unindexed: Unindexed,
    delivered: Delivered,
    health: Arc<Health>,
    /// Of the commit that is made.
    added: Vec<(SessionId, Span)>,
    begun: Vec<TurnId>,
}

impl Appender {
    pub(super) fn new(
        log: LogWriter,
        promised: HashSet<TurnId>,
        unindexed: Unindexed,
        delivered: Delivered,
        health: Arc<Health>,
    ) -> Self {
        Self {
            log,
            promised,
            states: HashMap::new(),
            hasher: RandomState::new(),
            chunk: ChunkWriter::default(),
            unindexed,
            delivered,
            health,
            added: Vec::new(),
            begun: Vec::new(),
        }
    }

    /// Writes all of them or none.
    pub(super) fn commit<'a>(&mut self, batches: impl IntoIterator<Item = &'a Batch>) -> Result<(), StoreError> {
        let (began, before) = (Instant::now(), self.log.end());
        if self.unindexed.are_too_many() {
            return self.finish(Err(Broken::Behind));
        }
        if self.states.len() > KNOWN {
            self.states.clear();
        }
        for batch in batches {
            self.add(batch);
        }
        failpoint::reach("store-uncommitted");
        let written = self.log.commit().map_err(Broken::from);
        if written.is_ok() {
            metrics().store_commits.inc();
            metrics().store_written.inc_by(super::unsigned(self.log.end() - before));
            metrics().store_commit_seconds.observe(began.elapsed().as_secs_f64());
        }
        self.finish(written)
    }

    /// Writes which answers were delivered, for sessions that say nothing; each with the number of its last entry.
    pub(super) fn commit_delivered(&mut self, delivered: Vec<(SessionId, i64, Vec<TurnId>)>) -> Result<(), StoreError> {
        for (session, last, turns) in delivered {
            self.chunk.clear();
            for turn in &turns {
                self.chunk.push(Kind::Delivered, 0, turn, |_| ());
            }
            self.push(Head { session, first: last + 1, last, at: super::now_ms(), flags: HAS_TURN });
        }
        let written = self.log.commit().map_err(Broken::from);
        self.finish(written)
    }

    /// Finds out whether the disk has room again.
    pub(super) fn probe(&mut self) -> Result<(), StoreError> {
        let written = self.log.probe().map_err(Broken::from);
        self.finish(written)
    }

    fn finish(&mut self, written: Result<(), Broken>) -> Result<(), StoreError> {
        match written {
            Ok(()) => {
                self.unindexed.add(self.added.drain(..), std::mem::take(&mut self.begun), self.log.end());
                self.health.works();
                Ok(())
            }
            Err(error) => {
                // What was learned in it is void.
                self.log.roll_back();
                self.added.clear();
                self.promised.extend(self.begun.drain(..));
                self.states.clear();
                let error = StoreError(error.to_string());
                self.health.failed(&error);
                metrics().store_failures.inc();
                Err(error)
            }
        }
    }

    fn add(&mut self, batch: &Batch) {
        let (Some(first), Some(last)) = (batch.entries.first(), batch.entries.last()) else { return };
        self.chunk.clear();
        let mut flags = 0;
        for turn in self.delivered.take(&batch.session) {
            self.chunk.push(Kind::Delivered, 0, &turn, |_| ());
            flags |= HAS_TURN;
        }
        for entry in &batch.entries {
            let (at_ms, turn) = (entry.at_ms, &entry.turn);
            match &entry.what {
                What::Accepted { attempt, request } => {
                    let given = self.given(&batch.session, &request.state);
                    flags |= if given == GivenState::Change { HAS_TURN | HAS_STATE } else { HAS_TURN };
                    self.chunk.push(Kind::Accepted, at_ms, turn, |out| write_accepted(out, *attempt, request, given));
                }
                What::Said(event) => self.chunk.push(Kind::Said, at_ms, turn, |out| write_event(out, event)),
                What::Ended(outcome) => {
                    flags |= if self.changes(&batch.session, outcome) { HAS_TURN | HAS_STATE } else { HAS_TURN };
                    self.chunk.push(Kind::Ended, at_ms, turn, |out| write_outcome(out, outcome));
                }
            }
            if keeps_promise(&entry.what) && !self.promised.is_empty() && self.promised.remove(&entry.turn) {
                self.begun.push(entry.turn.clone());
            }
        }
        let (first, last, at) = (super::signed(first.seq.0), super::signed(last.seq.0), last.at_ms);
        self.push(Head { session: batch.session.clone(), first, last, at, flags });
    }

    fn push(&mut self, head: Head) {
        let chunk = self.log.push(&head, self.chunk.bytes());
        let Head { session, first, last, flags, .. } = head;
        self.added.push((session, Span { first, chunk, flags, entries: last - first + 1 }));
    }

    /// What is written of the state that a request brings along.
    fn given(&mut self, session: &SessionId, state: &StateIn) -> GivenState {
        let StateIn::Given(state) = state else { return GivenState::Keep };
        let mark = self.mark(state.as_ref());
        match self.states.insert(session.clone(), mark) {
            Some(before) if before == mark => GivenState::Keep,
            _ => GivenState::Change,
        }
    }

    fn changes(&mut self, session: &SessionId, outcome: &Outcome) -> bool {
        let state = match &outcome.state {
            StateChange::Keep => return false,
            StateChange::Clear => None,
            StateChange::Set(state) => Some(state),
        };
        let mark = self.mark(state);
        self.states.insert(session.clone(), mark);
        true
    }

    fn mark(&self, state: Option<&RawJson>) -> Mark {
        state.map_or((0, 0), |state| (state.as_str().len(), self.hasher.hash_one(state.as_str())))
    }
}

/// Whether a promised turn need not be run after a restart any more. One that a stop of the server withdrew must.
pub(super) fn keeps_promise(what: &What) -> bool {
    match what {
        What::Accepted { .. } => true,
        What::Said(_) => false,
        What::Ended(outcome) => outcome.is_recorded(),
    }
}
