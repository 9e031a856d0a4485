//! What is written: one thread that groups the batches of all sessions into commits.
//!
//! Owns the grouping. Nothing is waited for to make a group larger: what has come while the commit before was made is the
//! next group.

use super::failed;
use crate::model::{Conflict, Entry, Repeat, SessionId, StateChange, StateIn, TurnId, What};
use crate::store::{Batch, Done, StoreError};
use crate::wire::stored::{write_accepted, write_event, write_outcome};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// The most entries of one commit.
const GROUP: usize = 4096;

/// Sessions whose numbers are known without looking.
const KNOWN: usize = 4096;

/// How entries are told apart in their table.
pub(super) const ACCEPTED: i64 = 0;
pub(super) const SAID: i64 = 1;
pub(super) const ENDED: i64 = 2;

/// How the keys of turns are told apart.
pub(super) const NEVER: i64 = 0;
pub(super) const BY_BODY: i64 = 1;
pub(super) const BY_ID: i64 = 2;
pub(super) const BY_ID_REFUSING: i64 = 3;

pub(super) enum Order {
    Append(Batch, Done),
    /// A caller has the whole answer of this turn.
    Delivered(SessionId, TurnId),
    Flush(oneshot::Sender<()>),
}

/// The thread, and the way to it. Each session has one batch on its way at most, which bounds what waits.
pub(super) struct Writer {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> Self {
        let (orders, taken) = channel();
        let mut work = Work { connection, known: HashMap::new() };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || work.run(&taken));
        match thread {
            Ok(thread) => Self { orders: Some(orders), thread: Some(thread) },
            Err(error) => {
                tracing::error!(%error, "the store's thread could not be started");
                Self { orders: None, thread: None }
            }
        }
    }

    pub(super) fn order(&self, order: Order) {
        let refused = match &self.orders {
            Some(orders) => orders.send(order).err().map(|refused| refused.0),
            None => Some(order),
        };
        if let Some(Order::Append(_, done)) = refused {
            done.tell(Err(StoreError("its thread has ended".to_owned())));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread writes what it has, and ends.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    connection: Connection,
    known: HashMap<SessionId, i64>,
}

impl Work {
    fn run(&mut self, orders: &Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            let mut group = vec![first];
            let mut entries = 0;
            while entries < GROUP
                && let Ok(next) = orders.try_recv()
            {
                entries += if let Order::Append(batch, _) = &next { batch.entries.len() } else { 1 };
                group.push(next);
            }
            let written = self.write(&group).map_err(|error| failed(&error));
            if let Err(error) = &written {
                tracing::error!(%error, "a commit failed");
                // What was learned in it is void.
                self.known.clear();
            }
            for order in group {
                match order {
                    Order::Append(_, done) => done.tell(written.clone()),
                    Order::Delivered(..) => {}
                    Order::Flush(told) => drop(told.send(())),
                }
            }
        }
    }

    fn write(&mut self, group: &[Order]) -> rusqlite::Result<()> {
        if self.known.len() > KNOWN {
            self.known.clear();
        }
        let Self { connection, known } = self;
        let transaction = connection.transaction()?;
        for order in group {
            match order {
                Order::Append(batch, _) => {
                    let session = number(&transaction, known, &batch.session)?;
                    for entry in &batch.entries {
                        append(&transaction, session, entry)?;
                    }
                    if let Some(last) = batch.entries.last() {
                        let update = "UPDATE sessions SET last = ? WHERE id = ?";
                        transaction.prepare_cached(update)?.execute(params![signed(last.seq.0), session])?;
                    }
                }
                Order::Delivered(id, turn) => {
                    let session = number(&transaction, known, id)?;
                    let update = "UPDATE turns SET delivered = 1 WHERE session = ? AND turn = ?";
                    transaction.prepare_cached(update)?.execute(params![session, turn.as_str()])?;
                }
                Order::Flush(_) => {}
            }
        }
        transaction.commit()
    }
}

/// Numbers stay far below the limit; SQLite has no unsigned ones.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(connection: &Connection, known: &mut HashMap<SessionId, i64>, id: &SessionId) -> rusqlite::Result<i64> {
    if let Some(number) = known.get(id) {
        return Ok(*number);
    }
    let mut find = connection.prepare_cached("SELECT id FROM sessions WHERE name = ?")?;
    let found = find.query_row([id.as_str()], |row| row.get(0)).optional()?;
    let number = match found {
        Some(number) => number,
        None => {
            connection.prepare_cached("INSERT INTO sessions (name, last) VALUES (?, 0)")?.execute([id.as_str()])?;
            connection.last_insert_rowid()
        }
    };
    known.insert(id.clone(), number);
    Ok(number)
}

fn append(connection: &Connection, session: i64, entry: &Entry) -> rusqlite::Result<()> {
    let (kind, record) = match &entry.what {
        What::Accepted { attempt, request } => {
            let (kind, key, body) = match &request.repeat {
                Repeat::Never => (NEVER, None, None),
                Repeat::ByBody { body } => (BY_BODY, None, Some(body.0)),
                Repeat::ById { id, body, conflict } => {
                    let refuses = *conflict == Conflict::Refuse;
                    (if refuses { BY_ID_REFUSING } else { BY_ID }, Some(id.as_str()), Some(body.0))
                }
            };
            let insert =
                "INSERT INTO turns (session, seq, turn, attempt, kind, key, body) VALUES (?, ?, ?, ?, ?, ?, ?)";
            let turn = entry.turn.as_str();
            let values = params![session, signed(entry.seq.0), turn, attempt, kind, key, body];
            connection.prepare_cached(insert)?.execute(values)?;
            if let StateIn::Given(state) = &request.state {
                set_state(connection, session, state.as_ref().map(|state| state.as_str()))?;
            }
            (ACCEPTED, write_accepted(*attempt, request))
        }
        What::Said(event) => (SAID, write_event(event)),
        What::Ended(outcome) => {
            let record = write_outcome(outcome);
            if outcome.is_recorded() {
                let update = "UPDATE turns SET outcome = ? WHERE session = ? AND turn = ?";
                let text = String::from_utf8_lossy(&record);
                connection.prepare_cached(update)?.execute(params![text, session, entry.turn.as_str()])?;
            }
            match &outcome.state {
                StateChange::Keep => {}
                StateChange::Clear => set_state(connection, session, None)?,
                StateChange::Set(state) => set_state(connection, session, Some(state.as_str()))?,
            }
            (ENDED, record)
        }
    };
    let insert = "INSERT INTO events (session, seq, turn, at, kind, record) VALUES (?, ?, ?, ?, ?, ?)";
    let values = params![session, signed(entry.seq.0), entry.turn.as_str(), signed(entry.at_ms), kind, record];
    connection.prepare_cached(insert)?.execute(values)?;
    Ok(())
}

fn set_state(connection: &Connection, session: i64, state: Option<&str>) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE sessions SET state = ? WHERE id = ?")?.execute(params![state, session])?;
    Ok(())
}
