//! A store that forgets when the process ends: the default until a durable one is asked for.
//!
//! Owns its bounds: 1,000 idle sessions, 100 settled turns, 8 MiB of events of the newest turn and
//! 256 KiB of earlier ones per session, 64 MiB of events in all.

use super::{Batch, Done, Interrupted, Page, Store, StoreError, StoredSession, StoredTurn};
use crate::model::{Entry, RawJson, Repeat, Seq, SessionId, StateChange, StateIn, TurnId, What};
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Settled turns kept per session; `dari-runtime-v1` 4.1 asks for 100.
const TURNS_PER_SESSION: usize = 100;
/// Answers kept per session, in bytes; the newest is kept whatever its size.
const ANSWER_BYTES_PER_SESSION: usize = 64 << 20;
/// Events kept per session, in bytes: a reader that lost its connection comes back behind what its socket had held, and
/// what two sockets hold on their way is some megabytes.
const EVENT_BYTES_PER_SESSION: usize = 8 << 20;
/// Of that, what was said before the newest turn: readers come back for a turn, and what is kept of others only costs the
/// caches of the processor.
const EARLIER_EVENT_BYTES: usize = 256 << 10;
/// Events kept in all, in bytes.
const EVENT_BYTES_IN_ALL: usize = 64 << 20;

/// Keeps sessions in memory, within bounds.
pub struct MemoryStore {
    max_idle: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    sessions: HashMap<SessionId, Session>,
    /// Least recently touched first.
    idle: BTreeMap<u64, SessionId>,
    clock: u64,
    event_bytes: usize,
}

#[derive(Default)]
struct Session {
    last: Seq,
    state: Option<RawJson>,
    open: Option<(TurnId, Repeat, u32)>,
    /// Turns that the server's stop cut: a retry is their next attempt.
    interrupted: VecDeque<Interrupted>,
    settled: VecDeque<StoredTurn>,
    settled_bytes: usize,
    events: VecDeque<Arc<Entry>>,
    event_bytes: usize,
    idle_since: Option<u64>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(1000)
    }
}

impl MemoryStore {
    /// A store that keeps at most `max_idle` sessions that have no turn running.
    #[must_use]
    pub fn new(max_idle: usize) -> Self {
        Self { max_idle, kept: Mutex::default() }
    }

    /// How many sessions it keeps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept().sessions.len()
    }

    /// Whether it keeps none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn take(&mut self, batch: Batch, max_idle: usize) {
        self.clock += 1;
        let now = self.clock;
        let session = self.sessions.entry(batch.session.clone()).or_default();
        if let Some(since) = session.idle_since.take() {
            self.idle.remove(&since);
        }
        let before = session.event_bytes;
        for entry in batch.entries {
            session.take(entry);
        }
        session.trim(EVENT_BYTES_PER_SESSION);
        self.event_bytes = self.event_bytes + session.event_bytes - before;
        if session.open.is_none() {
            session.idle_since = Some(now);
            self.idle.insert(now, batch.session);
        }
        while self.idle.len() > max_idle {
            self.forget_oldest();
        }
        self.trim_oldest();
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.idle.pop_first()
            && let Some(gone) = self.sessions.remove(&id)
        {
            self.event_bytes -= gone.event_bytes;
        }
    }

    /// Events of the sessions that were quiet longest go first; their state and answers stay.
    fn trim_oldest(&mut self) {
        if self.event_bytes <= EVENT_BYTES_IN_ALL {
            return;
        }
        for id in self.idle.values() {
            if let Some(session) = self.sessions.get_mut(id) {
                self.event_bytes -= session.event_bytes;
                session.events.clear();
                session.event_bytes = 0;
            }
            if self.event_bytes <= EVENT_BYTES_IN_ALL {
                return;
            }
        }
    }
}

impl Session {
    fn take(&mut self, entry: Arc<Entry>) {
        self.last = entry.seq;
        match &entry.what {
            What::Accepted { request, attempt } => {
                self.trim(EARLIER_EVENT_BYTES);
                self.open = Some((entry.turn.clone(), request.repeat.clone(), *attempt));
                if let StateIn::Given(state) = &request.state {
                    self.state.clone_from(state);
                }
            }
            What::Said(_) => {}
            What::Ended(outcome) => {
                match &outcome.state {
                    StateChange::Keep => {}
                    StateChange::Clear => self.state = None,
                    StateChange::Set(state) => self.state = Some(state.clone()),
                }
                let Some((id, repeat, attempt)) = self.open.take() else { return self.keep(entry) };
                if outcome.is_recorded() {
                    self.settled_bytes += outcome.weight();
                    self.settled.push_back(StoredTurn { id, repeat, outcome: outcome.clone(), is_delivered: false });
                } else {
                    self.interrupted.push_front(Interrupted { id, repeat, attempt });
                    self.interrupted.truncate(TURNS_PER_SESSION);
                }
                while self.settled.len() > TURNS_PER_SESSION
                    || (self.settled_bytes > ANSWER_BYTES_PER_SESSION && self.settled.len() > 1)
                {
                    if let Some(old) = self.settled.pop_front() {
                        self.settled_bytes -= old.outcome.weight();
                    }
                }
            }
        }
        self.keep(entry);
    }

    fn keep(&mut self, entry: Arc<Entry>) {
        self.event_bytes += entry.weight();
        self.events.push_back(entry);
    }

    fn trim(&mut self, most: usize) {
        while self.event_bytes > most {
            let Some(old) = self.events.pop_front() else { break };
            self.event_bytes -= old.weight();
        }
    }
}

impl Store for MemoryStore {
    fn append(&self, batch: Batch, done: Done) {
        self.kept().take(batch, self.max_idle);
        done.tell(Ok(()));
    }

    fn delivered(&self, session: &SessionId, turn: &TurnId) {
        let mut kept = self.kept();
        let Some(session) = kept.sessions.get_mut(session) else { return };
        // Nearly always the newest.
        if let Some(stored) = session.settled.iter_mut().rev().find(|stored| stored.id == *turn) {
            stored.is_delivered = true;
        }
    }

    fn session(&self, id: &SessionId) -> BoxFuture<'_, Result<Option<StoredSession>, StoreError>> {
        let found = self.kept().sessions.get(id).map(|session| StoredSession {
            newest: None,
            last: session.last,
            state: session.state.clone(),
            settled: session.settled.iter().cloned().collect(),
            interrupted: session.interrupted.iter().cloned().collect(),
        });
        Box::pin(std::future::ready(Ok(found)))
    }

    fn events(&self, id: &SessionId, after: Seq, max_bytes: usize) -> BoxFuture<'_, Result<Page, StoreError>> {
        let mut page = Page::default();
        if let Some(session) = self.kept().sessions.get(id) {
            let mut bytes = 0;
            for entry in session.events.iter().filter(|entry| entry.seq > after) {
                if bytes > 0 && bytes + entry.weight() > max_bytes {
                    break;
                }
                bytes += entry.weight();
                page.entries.push(entry.clone());
            }
        }
        Box::pin(std::future::ready(Ok(page)))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
