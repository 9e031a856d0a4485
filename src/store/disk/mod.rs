//! The store that survives the process: a log of records, and an index of it in SQLite.
//!
//! Owns the folder: its lock, the form of its tables, how it is opened. What is written is `writer`'s, what is read `reader`'s.
//! A killed process loses nothing, since the system has what was written; nothing waits for the disk, so a machine that loses
//! its power keeps a whole, slightly older state.

mod appender;
mod chunk;
mod delivered;
mod health;
mod index;
mod keeper;
mod reader;
mod retention;
mod segments;
mod spans;
mod writer;

#[cfg(test)]
mod tests;

use super::{Batch, Done, Keep, Page, Promised, Store, StoreError, StoreHealth, StoredSession};
use crate::failpoint;
use crate::model::{Seq, SessionId, TurnId};
use appender::Appender;
use delivered::Delivered;
use futures_util::future::BoxFuture;
use health::Health;
use index::Index;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use reader::Reader;
use retention::Retention;
use rusqlite::Connection;
use segments::{LogReader, LogWriter, Segments};
use spans::{Span, Unindexed};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use writer::{Order, Writer};

/// The form of the tables, one for each of the [`STEPS`]. A file of a later one is not touched.
const VERSION: i64 = 1;

/// How each form of the tables is made from the one before; the first one from nothing.
const STEPS: [&str; 1] = ["
    CREATE TABLE sessions (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

    -- The records of each session, up to the position in the log that is told below.
    CREATE TABLE spans (
        session INTEGER NOT NULL,
        first INTEGER NOT NULL,
        chunk INTEGER NOT NULL,
        flags INTEGER NOT NULL,
        entries INTEGER NOT NULL,
        PRIMARY KEY (session, first, chunk)
    ) WITHOUT ROWID;
    -- From where to where, and how many entries that are.
    CREATE TABLE indexed (begin INTEGER NOT NULL, upto INTEGER NOT NULL, entries INTEGER NOT NULL);
    INSERT INTO indexed VALUES (0, 0, 0);

    -- What is left of records that are no longer kept.
    CREATE TABLE kept (session INTEGER PRIMARY KEY, last INTEGER NOT NULL, state TEXT);

    -- Turns that were promised: whose they are, and what was asked as long as they have not begun.
    CREATE TABLE promised (turn TEXT PRIMARY KEY, session TEXT NOT NULL, at INTEGER NOT NULL, request BLOB);
"];

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It was written by a later version.
    #[error("{} was written by a later version of turnhost (form {form}, this one knows {VERSION})", .file.display())]
    Later {
        /// Its file.
        file: PathBuf,
        /// The form of its tables.
        form: i64,
    },
    /// It cannot be made, read or written.
    #[error("{}: {reason}", .folder.display())]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        reason: String,
    },
}

/// What went wrong inside; the text is for the log.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{}", told(.0))]
    Log(#[from] std::io::Error),
    #[error("index: {0}")]
    Index(#[from] rusqlite::Error),
    #[error("the index cannot be written, and too much waits for it")]
    Behind,
}

fn told(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::StorageFull { "the disk is full".to_owned() } else { error.to_string() }
}

/// Keeps sessions in a folder.
pub struct DiskStore {
    writer: Writer,
    reader: Arc<Mutex<Reader>>,
    health: Arc<Health>,
    /// As they were when the store was opened.
    promised: Vec<Promised>,
}

impl DiskStore {
    /// Opens the store in `folder`, which is made if it is missing. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When another process has the folder, or it cannot be used.
    pub fn open(folder: &Path, keep: Keep) -> Result<Self, OpenError> {
        let unusable = |error: &dyn std::fmt::Display| OpenError::Unusable {
            folder: folder.to_owned(),
            reason: error.to_string(),
        };
        // Prompts and answers are in there: nobody else reads them.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| unusable(&error))?;
        let private = |name: &str| OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join(name));
        let lock = private("lock").map_err(|error| unusable(&error))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => OpenError::InUse(folder.to_owned()),
            errno => unusable(&errno.desc()),
        })?;
        let file = folder.join("index.db");
        // What SQLite puts beside its file has the permissions of that.
        private("index.db").map_err(|error| unusable(&error))?;
        let mut connection = connect(&file).map_err(|error| unusable(&error))?;
        let form = bring_up(&mut connection, &STEPS).map_err(|error| unusable(&error))?;
        if form > VERSION {
            return Err(OpenError::Later { file, form });
        }
        failpoint::reach("store-opened");
        Self::start(connection, folder, keep, lock).map_err(|error| unusable(&error))
    }

    /// Leaves everything as a killed process would.
    #[cfg(test)]
    pub fn kill(&self) {
        self.writer.kill();
    }

    /// The disk is full beyond so many bytes of the log.
    #[cfg(test)]
    fn full_at(&self, position: i64) {
        self.writer.full_at(position);
    }

    fn start(connection: Connection, folder: &Path, keep: Keep, lock: Flock<File>) -> Result<Self, Broken> {
        let segments = Segments::open(folder.join("log"))?;
        let upto: i64 = connection.query_row("SELECT upto FROM indexed", [], |row| row.get(0))?;
        let mut promised = index::promised(&connection)?;
        let mut waiting: HashSet<TurnId> = promised.iter().map(|one| one.turn.clone()).collect();
        let unindexed = Unindexed::default();
        let log = LogWriter::open(&segments, upto, keep.bytes, |chunk, record| {
            let begun = if waiting.is_empty() { Vec::new() } else { reader::begun(&record.body) };
            let begun: Vec<TurnId> = begun.into_iter().filter(|turn| waiting.remove(turn)).collect();
            let (head, end) = (record.head, record.end);
            let entries = head.last - head.first + 1;
            unindexed.add([(head.session, Span { first: head.first, chunk, flags: head.flags, entries })], begun, end);
        })?;
        promised.retain(|one| waiting.contains(&one.turn));
        unindexed.add([], Vec::new(), log.end());
        let reader =
            Reader::new(connect(&folder.join("index.db"))?, LogReader::new(segments.clone()), unindexed.clone());
        let (health, delivered) = (Arc::new(Health::default()), Delivered::default());
        let writer = Writer::start(Started {
            appender: Appender::new(log, waiting, unindexed.clone(), delivered.clone(), health.clone()),
            index: Index { connection: connect(&folder.join("index.db"))?, segments: segments.clone() },
            keeper: Index { connection, segments },
            unindexed,
            health: health.clone(),
            retention: Retention::new(keep),
            delivered,
            lock,
        });
        Ok(Self { writer, reader: Arc::new(Mutex::new(reader)), health, promised })
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Reader) -> Result<T, Broken> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let reader = self.reader.clone();
        Box::pin(async move {
            let reading = tokio::task::spawn_blocking(move || {
                read(&mut reader.lock().unwrap_or_else(PoisonError::into_inner))
                    .map_err(|error| StoreError(error.to_string()))
            });
            reading.await.unwrap_or_else(|error| Err(StoreError(error.to_string())))
        })
    }
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // The cache of each connection, in KiB.
    connection.pragma_update(None, "cache_size", -2048)?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(connection)
}

/// Brings the tables into the newest form, step by step, each whole or not at all. Gives the form they have.
fn bring_up(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<i64> {
    let mut form: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for step in steps.iter().skip(usize::try_from(form).unwrap_or(usize::MAX)) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        form += 1;
        transaction.pragma_update(None, "user_version", form)?;
        transaction.commit()?;
    }
    Ok(form)
}

/// Numbers stay far below the limit; SQLite has no unsigned ones.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What the writer begins with.
struct Started {
    appender: Appender,
    /// For promises.
    index: Index,
    /// For everything else.
    keeper: Index,
    unindexed: Unindexed,
    health: Arc<Health>,
    retention: Retention,
    delivered: Delivered,
    /// Of the folder. The system lets go of it with the process.
    lock: Flock<File>,
}

impl Store for DiskStore {
    fn append(&self, batch: Batch, done: Done) {
        self.writer.append(batch, done);
    }

    fn delivered(&self, session: &SessionId, turn: &TurnId) {
        self.writer.delivered(session, turn);
    }

    fn session(&self, id: &SessionId) -> BoxFuture<'_, Result<Option<StoredSession>, StoreError>> {
        let id = id.clone();
        self.read(move |reader| reader.session(&id))
    }

    fn events(&self, id: &SessionId, after: Seq, max_bytes: usize) -> BoxFuture<'_, Result<Page, StoreError>> {
        let id = id.clone();
        self.read(move |reader| reader.events(&id, after, max_bytes))
    }

    fn promise(&self, promised: Promised) -> BoxFuture<'_, Result<(), StoreError>> {
        let (told, kept) = tokio::sync::oneshot::channel();
        self.writer.order(Order::Promise(promised, told));
        Box::pin(async move { kept.await.unwrap_or_else(|error| Err(StoreError(error.to_string()))) })
    }

    fn withdraw(&self, turn: &TurnId) {
        self.writer.order(Order::Withdraw(turn.clone()));
    }

    fn session_of(&self, turn: &TurnId) -> BoxFuture<'_, Result<Option<SessionId>, StoreError>> {
        let turn = turn.clone();
        self.read(move |reader| reader.session_of(&turn))
    }

    fn promised(&self) -> BoxFuture<'_, Result<Vec<Promised>, StoreError>> {
        let promised = self.promised.clone();
        Box::pin(async move { Ok(promised) })
    }

    fn health(&self) -> StoreHealth {
        self.health.trouble().map_or(StoreHealth::Ok, StoreHealth::Degraded)
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        let (told, flushed) = tokio::sync::oneshot::channel();
        self.writer.order(Order::Flush(told));
        Box::pin(async move {
            let _ = flushed.await;
        })
    }
}
