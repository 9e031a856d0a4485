//! The store that survives the process: SQLite in a folder of its own.
//!
//! Owns the folder: its lock, its file, the form of its tables. What is written is `writer`'s, what is read `reader`'s. The
//! write-ahead log is not synced at every commit: a killed process loses nothing, and a machine that loses its power keeps
//! a whole, slightly older state.

mod chunk;
mod health;
mod reader;
mod retention;
mod spans;
mod writer;

#[cfg(test)]
mod tests;

use super::{Batch, Done, Keep, Page, Promised, Store, StoreError, StoreHealth, StoredSession};
use crate::failpoint;
use crate::model::{Seq, SessionId, TurnId};
use futures_util::future::BoxFuture;
use health::Health;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use reader::Reader;
use retention::Retention;
use rusqlite::Connection;
use spans::Unindexed;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use writer::{Order, Start, Writer};

/// Bytes of a page. A turn with its prompt, its text and its outcome fills about half of one.
const PAGE: i64 = 8192;

/// The write-ahead log goes into the file when it has so many pages: each time costs two waits for the disk.
const CHECKPOINT_PAGES: i64 = 2048;

/// The form of the tables, one for each of the [`STEPS`]. A file of a later one is not touched.
const VERSION: i64 = 1;

/// How each form of the tables is made from the one before; the first one from nothing.
const STEPS: [&str; 1] = ["
    CREATE TABLE sessions (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

    -- The log of all sessions: one row for each batch, added at the end.
    CREATE TABLE chunks (
        id INTEGER PRIMARY KEY,
        session INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        at INTEGER NOT NULL,
        flags INTEGER NOT NULL,
        body BLOB NOT NULL
    );

    -- The rows of each session, up to the row that is told below.
    CREATE TABLE spans (
        session INTEGER NOT NULL,
        first INTEGER NOT NULL,
        chunk INTEGER NOT NULL,
        flags INTEGER NOT NULL,
        entries INTEGER NOT NULL,
        PRIMARY KEY (session, first, chunk)
    ) WITHOUT ROWID;
    CREATE TABLE indexed (upto INTEGER NOT NULL, entries INTEGER NOT NULL, tried INTEGER NOT NULL);
    INSERT INTO indexed VALUES (0, 0, 0);

    -- What is left of rows that are no longer kept.
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

/// Keeps sessions in a folder.
pub struct SqliteStore {
    writer: Writer,
    reader: Arc<Mutex<Reader>>,
    health: Arc<Health>,
    /// As they were when the store was opened.
    promised: Vec<Promised>,
    /// Held as long as the store lives; the system lets go of it with the process.
    _lock: Flock<File>,
}

impl SqliteStore {
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
        let file = folder.join("turnhost.db");
        // What SQLite puts beside its file has the permissions of that.
        private("turnhost.db").map_err(|error| unusable(&error))?;
        let mut connection = connect(&file).map_err(|error| unusable(&error))?;
        let form = bring_up(&mut connection, &STEPS).map_err(|error| unusable(&error))?;
        if form > VERSION {
            return Err(OpenError::Later { file, form });
        }
        failpoint::reach("store-opened");
        Self::start(connection, &file, keep, lock).map_err(|error| unusable(&error))
    }

    /// Leaves everything as a killed process would.
    #[cfg(test)]
    pub fn kill(&self) {
        self.writer.order(Order::Die);
    }

    fn start(connection: Connection, file: &Path, keep: Keep, lock: Flock<File>) -> rusqlite::Result<Self> {
        let upto: i64 = connection.query_row("SELECT upto FROM indexed", [], |row| row.get(0))?;
        let last: Option<i64> = connection.query_row("SELECT max(id) FROM chunks", [], |row| row.get(0))?;
        let unindexed = Unindexed::open(&connection, upto)?;
        let promised = promised(&connection)?;
        let reader = Reader::new(connect(file)?, unindexed.clone());
        let health = Arc::new(Health::default());
        let writer = Writer::start(Start {
            connection,
            next: last.unwrap_or_default().max(upto) + 1,
            unindexed,
            promised: promised.iter().map(|one| one.turn.clone()).collect(),
            health: health.clone(),
            retention: Retention::new(keep),
        });
        Ok(Self { writer, reader: Arc::new(Mutex::new(reader)), health, promised, _lock: lock })
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let reader = self.reader.clone();
        Box::pin(async move {
            let reading = tokio::task::spawn_blocking(move || {
                read(&reader.lock().unwrap_or_else(PoisonError::into_inner)).map_err(|error| failed(&error))
            });
            reading.await.unwrap_or_else(|error| Err(StoreError(error.to_string())))
        })
    }
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.pragma_update(None, "page_size", PAGE)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
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

fn promised(connection: &Connection) -> rusqlite::Result<Vec<Promised>> {
    let mut find =
        connection.prepare("SELECT turn, session, request FROM promised WHERE request IS NOT NULL ORDER BY rowid")?;
    let mut rows = find.query([])?;
    let mut promised = Vec::new();
    while let Some(row) = rows.next()? {
        let Ok(session) = SessionId::new(&row.get::<_, String>(1)?) else { continue };
        promised.push(Promised { turn: TurnId::from_drawn(row.get(0)?), session, request: row.get(2)? });
    }
    Ok(promised)
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

fn failed(error: &rusqlite::Error) -> StoreError {
    StoreError(error.to_string())
}

impl Store for SqliteStore {
    fn append(&self, batch: Batch, done: Done) {
        self.writer.order(Order::Append(batch, done));
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
