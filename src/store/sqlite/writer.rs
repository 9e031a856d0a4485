//! What is written: one thread that groups the batches of all sessions into commits.
//!
//! Owns the grouping. Nothing is waited for to make a group larger: what has come while the commit before was made is the
//! next group. A batch is one row at the end of the log, whatever it holds.

use super::chunk::{ChunkWriter, Kind};
use super::health::Health;
use super::retention::Retention;
use super::spans::{HAS_STATE, HAS_TURN, Span, Unindexed};
use super::{failed, now_ms, signed};
use crate::failpoint;
use crate::model::{Outcome, RawJson, SessionId, StateChange, StateIn, TurnId, What};
use crate::store::{Batch, Done, Promised, StoreError};
use crate::telemetry::metrics::metrics;
use crate::wire::stored::{GivenState, write_accepted, write_event, write_outcome};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The most entries of one commit.
const GROUP: usize = 4096;
/// The most bytes of one commit, by the engine's measure; a larger batch is one of its own.
const GROUP_BYTES: usize = 4 << 20;
/// Sessions of which the writer knows where they stand without looking.
const KNOWN: usize = 4096;
/// What may be lost in a crash is written with the next batch, or when nothing has come for so long.
const IDLE: Duration = Duration::from_millis(200);
/// How often a store that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) enum Order {
    Append(Batch, Done),
    Promise(Promised, oneshot::Sender<Result<(), StoreError>>),
    Withdraw(TurnId),
    Flush(oneshot::Sender<()>),
    /// Ends the thread as a killed process would end it, for the tests.
    #[cfg(test)]
    Die,
}

impl Order {
    fn entries(&self) -> usize {
        if let Self::Append(batch, _) = self { batch.entries.len() } else { 1 }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Append(batch, _) => batch.entries.iter().map(|entry| entry.weight()).sum(),
            Self::Promise(promised, _) => promised.request.len(),
            Self::Withdraw(_) | Self::Flush(_) => 0,
            #[cfg(test)]
            Self::Die => 0,
        }
    }
}

/// The thread, and the way to it. Each session has one batch on its way at most, which bounds what waits.
pub(super) struct Writer {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    delivered: Delivered,
}

/// Turns whose answer a caller has, and that are not written yet. They are written with what their sessions say next, or
/// when the thread has nothing else to do: it is not woken for them.
type Delivered = Arc<Mutex<HashMap<SessionId, Vec<TurnId>>>>;

/// What the thread starts with.
pub(super) struct Start {
    pub(super) connection: Connection,
    /// The row that is written next.
    pub(super) next: i64,
    pub(super) unindexed: Unindexed,
    pub(super) promised: HashSet<TurnId>,
    pub(super) health: Arc<Health>,
    pub(super) retention: Retention,
}

impl Writer {
    pub(super) fn start(start: Start) -> Self {
        let (orders, taken) = channel();
        let delivered = Delivered::default();
        let mut work = Work {
            connection: start.connection,
            next: start.next,
            known: HashMap::new(),
            hasher: RandomState::new(),
            unindexed: start.unindexed,
            delivered: delivered.clone(),
            promised: start.promised,
            added: Vec::new(),
            chunk: ChunkWriter::default(),
            health: start.health,
            retention: start.retention,
            runtime: Handle::try_current().ok(),
        };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || work.run(&taken));
        match thread {
            Ok(thread) => Self { orders: Some(orders), thread: Some(thread), delivered },
            Err(error) => {
                tracing::error!(%error, "the store's thread could not be started");
                Self { orders: None, thread: None, delivered }
            }
        }
    }

    pub(super) fn order(&self, order: Order) {
        metrics().store_pending.add(signed(order.bytes() as u64));
        let refused = match &self.orders {
            Some(orders) => orders.send(order).err().map(|refused| refused.0),
            None => Some(order),
        };
        let error = || Err(StoreError("its thread has ended".to_owned()));
        match refused {
            Some(Order::Append(_, done)) => done.tell(error()),
            Some(Order::Promise(_, told)) => drop(told.send(error())),
            Some(Order::Withdraw(_) | Order::Flush(_)) | None => {}
            #[cfg(test)]
            Some(Order::Die) => {}
        }
    }

    /// Notes that a caller has the whole answer of a turn.
    pub(super) fn delivered(&self, session: &SessionId, turn: &TurnId) {
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        delivered.entry(session.clone()).or_default().push(turn.clone());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread writes what it has, and ends.
        self.orders = None;
        // The last one to let go of the store may be the thread itself, which cannot wait for its own end.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// Where a session stands.
struct Known {
    number: i64,
    /// The number of its last entry.
    last: i64,
    /// Its state as it was written last, told by length and hash: a platform gives back with each turn what it was given
    /// with the one before, and there is no need to keep it twice.
    state: Option<(usize, u64)>,
}

/// A row, besides what is in it.
struct Row {
    session: i64,
    first: i64,
    last: i64,
    at: u64,
    flags: i64,
}

struct Work {
    connection: Connection,
    next: i64,
    known: HashMap<SessionId, Known>,
    hasher: RandomState,
    unindexed: Unindexed,
    delivered: Delivered,
    /// Turns that are promised.
    promised: HashSet<TurnId>,
    chunk: ChunkWriter,
    /// Rows of the open transaction.
    added: Vec<(i64, Span)>,
    health: Arc<Health>,
    retention: Retention,
    /// Where acknowledgements are given.
    runtime: Option<Handle>,
}

impl Work {
    fn run(&mut self, orders: &Receiver<Order>) {
        let mut looked = Instant::now();
        let mut is_idle = true;
        loop {
            match orders.recv_timeout(self.idle_time(is_idle)) {
                #[cfg(test)]
                Ok(Order::Die) => return,
                Ok(first) => {
                    self.group(first, orders);
                    is_idle = false;
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.catch_up();
                    is_idle = true;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if looked.elapsed() > self.retention.every() {
                looked = Instant::now();
                self.make_room();
            }
        }
        self.close();
    }

    /// How long there is nothing to do but to wait.
    fn idle_time(&self, is_idle: bool) -> Duration {
        match (self.health.is_ok(), is_idle) {
            (false, _) => AGAIN,
            (true, true) => self.retention.every(),
            (true, false) => IDLE.min(self.retention.every()),
        }
    }

    fn group(&mut self, first: Order, orders: &Receiver<Order>) {
        let (mut entries, mut bytes) = (first.entries(), first.bytes());
        let mut group = vec![first];
        // Where the cores are busy, others who are about to hand something in do so first; elsewhere this is nothing.
        std::thread::yield_now();
        while entries < GROUP
            && bytes < GROUP_BYTES
            && let Ok(next) = orders.try_recv()
        {
            entries += next.entries();
            bytes += next.bytes();
            group.push(next);
        }
        let written = self.commit(|work| work.write(&group));
        metrics().store_pending.sub(signed(bytes as u64));
        if written.is_ok() {
            metrics().store_written.inc_by(bytes as u64);
        }
        failpoint::reach("store-committed");
        let mut appended = Vec::with_capacity(group.len());
        for order in group {
            match order {
                Order::Append(_, done) => appended.push(done),
                Order::Promise(_, told) => drop(told.send(written.clone())),
                #[cfg(test)]
                Order::Die => {}
                Order::Withdraw(_) => {}
                Order::Flush(told) => {
                    self.close();
                    let _ = told.send(());
                }
            }
        }
        let tell = move || appended.into_iter().for_each(|done| done.tell(written.clone()));
        // Who waits is woken on the runtime: from there it costs one call of the system for all of them, from here one each.
        match &self.runtime {
            Some(runtime) => drop(runtime.spawn(async move { tell() })),
            None => tell(),
        }
    }

    /// Writes what was put off, or tries a store that failed once more.
    fn catch_up(&mut self) {
        let delivered = std::mem::take(&mut *self.delivered.lock().unwrap_or_else(PoisonError::into_inner));
        if delivered.is_empty() && self.health.is_ok() {
            return;
        }
        let _ = self.commit(|work| {
            for (session, turns) in delivered {
                let known = work.known(&session)?;
                work.chunk.clear();
                for turn in &turns {
                    work.chunk.push(Kind::Delivered, 0, turn, b"");
                }
                let (first, last) = (known.last + 1, known.last);
                let row = Row { session: known.number, first, last, at: now_ms(), flags: HAS_TURN };
                work.known.insert(session, known);
                work.row(&row)?;
            }
            // Nothing may have been written so far, and only a write shows whether writing works.
            work.connection.prepare_cached("UPDATE indexed SET tried = tried + 1")?.execute([])
        });
    }

    /// Writes what was put off, and the index: the next start need not look for what it lacks.
    fn close(&mut self) {
        self.catch_up();
        if !self.unindexed.is_empty() && self.health.is_ok() {
            let written = self.commit(|work| work.unindexed.write(&work.connection));
            failpoint::reach("store-closed");
            if written.is_ok() {
                self.unindexed.clear();
            }
        }
    }

    fn make_room(&mut self) {
        if !self.health.is_ok() {
            return;
        }
        // In short steps: what has come meanwhile goes first.
        let result = self.commit(|work| work.retention.step(&work.connection));
        if let Ok(removed) = result
            && removed > 0
        {
            tracing::debug!(removed, "what was kept too long is gone");
        }
    }

    /// All of it or nothing.
    fn commit<T>(&mut self, write: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let began = Instant::now();
        let next = self.next;
        let is_full = self.unindexed.is_full();
        let written = self.transaction(|work| {
            if is_full {
                work.unindexed.write(&work.connection)?;
                failpoint::reach("index-written");
            }
            write(work)
        });
        match written {
            Ok(value) => {
                if is_full {
                    self.unindexed.clear();
                }
                for (session, span) in self.added.drain(..) {
                    self.unindexed.add(session, span);
                }
                self.health.works();
                metrics().store_commits.inc();
                metrics().store_commit_seconds.observe(began.elapsed().as_secs_f64());
                Ok(value)
            }
            Err(error) => {
                // What was learned in it is void.
                self.next = next;
                self.added.clear();
                self.known.clear();
                let error = failed(&error);
                self.health.failed(&error);
                metrics().store_failures.inc();
                Err(error)
            }
        }
    }

    fn transaction<T>(&mut self, write: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let written = write(self).and_then(|value| {
            failpoint::reach("store-uncommitted");
            self.connection.prepare_cached("COMMIT")?.execute([])?;
            Ok(value)
        });
        if written.is_err() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        written
    }

    fn write(&mut self, group: &[Order]) -> rusqlite::Result<()> {
        if self.known.len() > KNOWN {
            self.known.clear();
        }
        for order in group {
            match order {
                Order::Append(batch, _) => self.append(batch)?,
                Order::Promise(promised, _) => {
                    let insert = "INSERT OR REPLACE INTO promised (turn, session, at, request) VALUES (?, ?, ?, ?)";
                    let (turn, session) = (promised.turn.as_str(), promised.session.as_str());
                    let values = params![turn, session, signed(now_ms()), promised.request];
                    self.connection.prepare_cached(insert)?.execute(values)?;
                    self.promised.insert(promised.turn.clone());
                }
                Order::Withdraw(turn) => {
                    self.promised.remove(turn);
                    let delete = "DELETE FROM promised WHERE turn = ?";
                    self.connection.prepare_cached(delete)?.execute([turn.as_str()])?;
                }
                Order::Flush(_) => {}
                #[cfg(test)]
                Order::Die => {}
            }
        }
        Ok(())
    }

    fn append(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        let (Some(first), Some(last)) = (batch.entries.first(), batch.entries.last()) else { return Ok(()) };
        let mut known = self.known(&batch.session)?;
        self.chunk.clear();
        let mut flags = 0;
        let delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner).remove(&batch.session);
        for turn in delivered.unwrap_or_default() {
            self.chunk.push(Kind::Delivered, 0, &turn, b"");
            flags |= HAS_TURN;
        }
        for entry in &batch.entries {
            let (kind, record) = match &entry.what {
                What::Accepted { attempt, request } => {
                    let given = self.given(&mut known, &request.state);
                    flags |= if given == GivenState::Change { HAS_TURN | HAS_STATE } else { HAS_TURN };
                    (Kind::Accepted, write_accepted(*attempt, request, given))
                }
                What::Said(event) => (Kind::Said, write_event(event)),
                What::Ended(outcome) => {
                    flags |= if self.changes(&mut known, outcome) { HAS_TURN | HAS_STATE } else { HAS_TURN };
                    (Kind::Ended, write_outcome(outcome))
                }
            };
            if keeps_promise(&entry.what) && self.promised.remove(&entry.turn) {
                let update = "UPDATE promised SET request = NULL WHERE turn = ?";
                self.connection.prepare_cached(update)?.execute([entry.turn.as_str()])?;
            }
            self.chunk.push(kind, entry.at_ms, &entry.turn, &record);
        }
        known.last = signed(last.seq.0);
        let row = Row { session: known.number, first: signed(first.seq.0), last: known.last, at: last.at_ms, flags };
        self.known.insert(batch.session.clone(), known);
        self.row(&row)
    }

    /// What is written of the state that a request brings along.
    fn given(&self, known: &mut Known, state: &StateIn) -> GivenState {
        let StateIn::Given(state) = state else { return GivenState::Keep };
        let mark = Some(self.mark(state.as_ref()));
        if known.state == mark {
            return GivenState::Keep;
        }
        known.state = mark;
        GivenState::Change
    }

    fn changes(&self, known: &mut Known, outcome: &Outcome) -> bool {
        let state = match &outcome.state {
            StateChange::Keep => return false,
            StateChange::Clear => None,
            StateChange::Set(state) => Some(state),
        };
        known.state = Some(self.mark(state));
        true
    }

    fn mark(&self, state: Option<&RawJson>) -> (usize, u64) {
        state.map_or((0, 0), |state| (state.as_str().len(), self.hasher.hash_one(state.as_str())))
    }

    /// Adds what is in `chunk` to the log.
    fn row(&mut self, row: &Row) -> rusqlite::Result<()> {
        let insert = "INSERT INTO chunks (id, session, first, last, at, flags, body) VALUES (?, ?, ?, ?, ?, ?, ?)";
        let values =
            params![self.next, row.session, row.first, row.last, signed(row.at), row.flags, self.chunk.bytes()];
        self.connection.prepare_cached(insert)?.execute(values)?;
        let entries = row.last - row.first + 1;
        self.added.push((row.session, Span { first: row.first, chunk: self.next, flags: row.flags, entries }));
        self.next += 1;
        Ok(())
    }

    /// Where a session stands; one that is new gets its number.
    fn known(&mut self, id: &SessionId) -> rusqlite::Result<Known> {
        if let Some(known) = self.known.remove(id) {
            return Ok(known);
        }
        let mut find = self.connection.prepare_cached("SELECT id FROM sessions WHERE name = ?")?;
        let Some(number) = find.query_row([id.as_str()], |row| row.get(0)).optional()? else {
            self.connection.prepare_cached("INSERT INTO sessions (name) VALUES (?)")?.execute([id.as_str()])?;
            return Ok(Known { number: self.connection.last_insert_rowid(), last: 0, state: None });
        };
        let last = last_of(&self.connection, &self.unindexed, number)?;
        Ok(Known { number, last, state: None })
    }
}

/// Whether a promised turn need not be run after a restart any more. One that a stop of the server withdrew must.
fn keeps_promise(what: &What) -> bool {
    match what {
        What::Accepted { .. } => true,
        What::Said(_) => false,
        What::Ended(outcome) => outcome.is_recorded(),
    }
}

/// The number of a session's last entry.
pub(super) fn last_of(connection: &Connection, unindexed: &Unindexed, session: i64) -> rusqlite::Result<i64> {
    if let Some(newest) = unindexed.of(session).last() {
        return Ok(newest.first + newest.entries - 1);
    }
    let find = "SELECT first + entries - 1 FROM spans WHERE session = ? ORDER BY first DESC, chunk DESC LIMIT 1";
    let indexed = connection.prepare_cached(find)?.query_row([session], |row| row.get(0)).optional()?;
    if let Some(last) = indexed {
        return Ok(last);
    }
    let kept = connection.prepare_cached("SELECT last FROM kept WHERE session = ?")?;
    Ok({ kept }.query_row([session], |row| row.get(0)).optional()?.unwrap_or_default())
}
