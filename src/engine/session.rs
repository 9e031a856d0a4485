//! One session in memory: its state, its queue, the turns that run or wait.
//!
//! Owns the rules of order: one turn at a time, the others wait in order within a bound, a repeat is no new turn. The settled
//! turns are in `remembered`.

use super::log::{Logs, SessionLog};
use super::remembered::{self, Remembered};
use super::turn::TurnRecord;
use crate::artifact::handout::Handout;
use crate::model::{
    Conflict, Ending, Fault, FaultCode, Fingerprint, Lifetime, OnDrain, Outcome, RawJson, Repeat, Seq, SessionId,
    StateChange, StateIn, TurnId, TurnRequest,
};
use crate::store::{Interrupted, NewestTurn, Store, StoredSession, StoredTurn};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How long an undelivered answer waits for a retry that has no id; `dari-runtime-v1` 4.2.
const UNDELIVERED_FOR: Duration = Duration::from_hours(24);

/// A session that is loaded.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) lifetime: Lifetime,
    pub(super) log: Arc<SessionLog>,
    /// Where it is kept.
    store: Option<Arc<dyn Store>>,
    /// Its watched directories, once it has any.
    handout: OnceLock<Arc<Handout>>,
    inner: Mutex<Inner>,
}

struct Inner {
    state: Option<RawJson>,
    queue: VecDeque<Waiting>,
    running: Option<(Arc<TurnRecord>, OnDrain)>,
    /// The turn that began last, for readers who lost their connection.
    last: Option<Arc<TurnRecord>>,
    has_runner: bool,
    /// Turns begun so far: tells whether another turn began since an answer was made.
    begun: u64,
    /// The turn before the next one, if it was cut.
    cut: Option<Cut>,
    /// Turns that were cut without an outcome: a retry is their next attempt.
    interrupted: Vec<Interrupted>,
    settled: Remembered,
}

/// An admitted turn that waits for its session.
pub(super) struct Waiting {
    pub(super) record: Arc<TurnRecord>,
    pub(super) request: Arc<TurnRequest>,
}

/// A turn that is to run.
pub(super) struct Begun {
    pub(super) waiting: Waiting,
    /// The state it starts from.
    pub(super) state: Option<RawJson>,
    /// The turn before, if it was cut.
    pub(super) cut: Option<Cut>,
}

/// Where the log tells of a turn that was cut.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub(super) turn: TurnId,
    pub(super) from: Seq,
    pub(super) repeat: Repeat,
}

/// What became of a request at its session's door.
pub(super) enum Admitted {
    /// A new turn waits; `start_runner` when nobody works on the session's queue yet.
    New { record: Arc<TurnRecord>, start_runner: bool },
    /// The request repeats this turn.
    Repeat(Arc<TurnRecord>),
}

impl Session {
    pub(super) fn new(
        id: SessionId,
        lifetime: Lifetime,
        stored: Option<StoredSession>,
        store: Option<Arc<dyn Store>>,
        logs: Arc<Logs>,
    ) -> Arc<Self> {
        let stored = stored.unwrap_or_default();
        let mut inner = Inner {
            state: stored.state,
            queue: VecDeque::new(),
            running: None,
            last: None,
            has_runner: false,
            begun: 0,
            cut: None,
            interrupted: stored.interrupted,
            settled: Remembered::of(stored.settled, &id, store.as_ref()),
        };
        if let Some(newest) = stored.newest {
            inner.ran_last(newest, &id);
        }
        let log = SessionLog::new(id.clone(), stored.last, store.clone(), logs);
        Arc::new(Self { id, lifetime, log, store, handout: OnceLock::new(), inner: Mutex::new(inner) })
    }

    /// Where it is kept, if anywhere.
    pub(super) fn store(&self) -> Option<Arc<dyn Store>> {
        self.store.clone()
    }

    /// Its watched directories, if it has any.
    pub(super) fn handout(&self) -> Option<Arc<Handout>> {
        self.handout.get().cloned()
    }

    /// Its watched directories, with the engine's bounds.
    pub(super) fn open_handout(&self, engine: &super::Inner) -> Result<Arc<Handout>, Fault> {
        let http = engine.uploads()?;
        let new =
            || Handout::new(http, engine.options.work.handout.clone(), engine.runtime.clone(), engine.tasks.clone());
        Ok(self.handout.get_or_init(new).clone())
    }

    /// Whether a request may repeat a turn whose answer only the store has.
    pub(super) fn has_let_go_of(&self, repeat: &Repeat) -> bool {
        self.inner().settled.has_let_go_of(repeat)
    }

    /// Whether this may be such a turn.
    pub(super) fn has_let_go_of_turn(&self, id: &TurnId) -> bool {
        self.inner().settled.has_let_go_of_turn(id)
    }

    /// Takes back the answers that only the store had, oldest first.
    pub(super) fn recall(&self, stored: Vec<StoredTurn>) {
        self.inner().settled.recall(stored, &self.id, self.store.as_ref());
    }

    /// Takes a request in, or finds the turn that it repeats.
    pub(super) fn admit(
        &self,
        request: &Arc<TurnRequest>,
        most_waiting: usize,
        new_record: impl FnOnce() -> Arc<TurnRecord>,
    ) -> Result<Admitted, Fault> {
        let mut inner = self.inner();
        if let Some(earlier) = inner.find_repeat(&request.repeat, &self.id)? {
            return Ok(Admitted::Repeat(earlier));
        }
        // The head of a queue with nobody running is about to begin; the bound counts those that really wait.
        let waiting = inner.queue.len().saturating_sub(usize::from(inner.running.is_none()));
        if waiting >= most_waiting && !(inner.running.is_none() && inner.queue.is_empty()) {
            return Err(Fault::new(FaultCode::QueueFull, "turn queue is full"));
        }
        let record = new_record();
        let _ = record.attempt.set(inner.attempt(&request.repeat));
        inner.queue.push_back(Waiting { record: record.clone(), request: request.clone() });
        let start_runner = !std::mem::replace(&mut inner.has_runner, true);
        if start_runner {
            inner.running = None;
        }
        Ok(Admitted::New { record, start_runner })
    }

    /// The turn that a request repeats, if there is one.
    pub(super) fn repeated_by(&self, request: &TurnRequest) -> Result<Option<Arc<TurnRecord>>, Fault> {
        self.inner().find_repeat(&request.repeat, &self.id)
    }

    /// The next turn to run, with the state it starts from. `None` ends the runner.
    pub(super) fn begin(&self) -> Option<Begun> {
        let mut inner = self.inner();
        let Some(next) = inner.queue.pop_front() else {
            inner.has_runner = false;
            inner.running = None;
            return None;
        };
        inner.begun += 1;
        let cut = inner.cut.take();
        inner.running = Some((next.record.clone(), next.request.on_drain));
        if self.lifetime == Lifetime::Named {
            inner.last = Some(next.record.clone());
        }
        if let StateIn::Given(state) = &next.request.state {
            inner.state.clone_from(state);
        }
        let state = inner.state.clone();
        Some(Begun { waiting: next, state, cut })
    }

    /// Applies a turn's outcome to the session; the turn is settled right after, once its end is stored.
    pub(super) fn end(&self, record: &Arc<TurnRecord>, outcome: &Arc<Outcome>) {
        let mut inner = self.inner();
        match &outcome.state {
            StateChange::Keep => {}
            StateChange::Clear => inner.state = None,
            StateChange::Set(state) => inner.state = Some(state.clone()),
        }
        let _ = record.begun_at_end.set(inner.begun);
        if !outcome.is_recorded() {
            let from = record.accepted.get().copied().unwrap_or_default();
            inner.cut = Some(Cut { turn: record.id.clone(), from, repeat: record.repeat.clone() });
        }
        if !outcome.is_recorded() && record.repeat != Repeat::Never {
            let attempt = record.attempt.get().copied().unwrap_or(1);
            inner.interrupted.insert(0, Interrupted { id: record.id.clone(), repeat: record.repeat.clone(), attempt });
            inner.interrupted.truncate(remembered::TURNS);
        }
        if outcome.is_recorded() && self.lifetime == Lifetime::Named && record.repeat != Repeat::Never {
            inner.settled.add(record.clone(), outcome);
            inner.settled.let_go_of_old(self.store.as_ref());
        }
    }

    /// Takes a waiting turn out of the queue.
    pub(super) fn withdraw(&self, record: &Arc<TurnRecord>) -> Option<Waiting> {
        let mut inner = self.inner();
        let at = inner.queue.iter().position(|waiting| Arc::ptr_eq(&waiting.record, record))?;
        inner.queue.remove(at)
    }

    /// Every turn that runs or waits, and what a drain does to it.
    pub(super) fn live(&self) -> Vec<(Arc<TurnRecord>, OnDrain)> {
        let inner = self.inner();
        let waiting = inner.queue.iter().map(|waiting| (waiting.record.clone(), waiting.request.on_drain));
        inner.running.iter().cloned().chain(waiting).collect()
    }

    /// The turn that runs now.
    pub(super) fn running(&self) -> Option<Arc<TurnRecord>> {
        self.inner().running.as_ref().map(|(record, _)| record.clone()).filter(|record| record.ended().is_none())
    }

    /// The turn that runs or ran last, as far as this process knows.
    pub(super) fn last(&self) -> Option<Arc<TurnRecord>> {
        self.inner().last.clone()
    }

    /// A turn that runs, waits, or has ended and is remembered.
    pub(super) fn turn(&self, id: &TurnId) -> Option<Arc<TurnRecord>> {
        let inner = self.inner();
        inner.live_records().find(|record| record.id == *id).or_else(|| inner.settled.find(id)).cloned()
    }

    /// At which attempt this turn was cut, if it was.
    pub(super) fn was_cut(&self, id: &TurnId) -> Option<u32> {
        self.inner().interrupted.iter().find(|one| one.id == *id).map(|one| one.attempt)
    }

    /// About how many bytes of memory it takes.
    pub(super) fn weight(&self) -> usize {
        let log = self.log.weight();
        log + self.inner().settled.weight()
    }

    pub(super) fn is_idle(&self) -> bool {
        let inner = self.inner();
        !inner.has_runner && inner.queue.is_empty()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The turn that an earlier process began last: readers who lost their connection come back for it, and if it was cut,
    /// the next one is told.
    fn ran_last(&mut self, newest: NewestTurn, session: &SessionId) {
        let known = self.settled.newest().filter(|record| record.id == newest.id).cloned();
        let record = known.unwrap_or_else(|| {
            let record = TurnRecord::new(newest.id.clone(), session.clone(), newest.repeat.clone(), false, None);
            let interrupted = || Arc::new(Outcome::new(Ending::Interrupted));
            record.settle(newest.outcome.clone().unwrap_or_else(interrupted));
            record
        });
        let _ = record.accepted.set(newest.from);
        self.last = Some(record);
        if newest.outcome.is_none() {
            self.cut = Some(Cut { turn: newest.id, from: newest.from, repeat: newest.repeat });
        }
    }

    fn live_records(&self) -> impl Iterator<Item = &Arc<TurnRecord>> {
        self.running.iter().map(|(record, _)| record).chain(self.queue.iter().map(|waiting| &waiting.record))
    }

    fn find_repeat(&self, repeat: &Repeat, session: &SessionId) -> Result<Option<Arc<TurnRecord>>, Fault> {
        match repeat {
            Repeat::Never => Ok(None),
            Repeat::ById { id, body, conflict } => {
                let mut other_body = false;
                for record in self.live_records().chain(self.settled.with_key(repeat)) {
                    match record.names(id) {
                        Some(same) if same == *body => return Ok(Some(record.clone())),
                        Some(_) => other_body = true,
                        None => {}
                    }
                }
                if !other_body {
                    return Ok(None);
                }
                match conflict {
                    Conflict::Refuse => {
                        Err(Fault::new(FaultCode::KeyConflict, "the key was used before with a different request"))
                    }
                    Conflict::NewTurn => {
                        tracing::warn!(%session, "a message id came again with another input: it is a new turn");
                        Ok(None)
                    }
                }
            }
            Repeat::ByBody { body } => {
                let same = |record: &&Arc<TurnRecord>| record.repeat == Repeat::ByBody { body: *body };
                // A turn stays the running one for a moment after its end; by then its answer may be delivered.
                let live = self.live_records().filter(|record| record.ended().is_none()).find(same);
                Ok(live.or_else(|| self.settled.with_key(repeat).find(same).filter(|r| self.awaits_retry(r))).cloned())
            }
        }
    }

    /// Which attempt a turn is. What it goes on from is forgotten: it has an outcome soon, or is cut again.
    fn attempt(&mut self, repeat: &Repeat) -> u32 {
        let Some(at) = self.interrupted.iter().position(|one| *repeat != Repeat::Never && one.repeat == *repeat) else {
            return 1;
        };
        let attempt = self.interrupted[at].attempt + 1;
        self.interrupted.retain(|one| one.repeat != *repeat);
        attempt
    }

    /// Whether an answer was never delivered and no other turn has begun since it was made.
    fn awaits_retry(&self, record: &TurnRecord) -> bool {
        !record.is_delivered()
            && record.begun_at_end.get().is_none_or(|begun| *begun == self.begun)
            && record.ended_at.get().is_none_or(|at| at.elapsed() < UNDELIVERED_FOR)
    }
}

impl TurnRecord {
    /// What was asked under this caller's key, if this turn has it.
    fn names(&self, key: &str) -> Option<Fingerprint> {
        match &self.repeat {
            Repeat::ById { id, body, .. } if id == key => Some(*body),
            _ => None,
        }
    }
}
