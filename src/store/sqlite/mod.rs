//! The store that survives the process: SQLite in a folder of its own.
//!
//! Owns the folder: its lock, its file, the form of its tables. What is written is `writer`'s, what is read `reader`'s. The
//! write-ahead log is not synced at every commit: a killed process loses nothing, and a machine that loses its power keeps
//! a whole, slightly older state.

mod reader;
mod writer;

#[cfg(test)]
mod tests;

use super::{Batch, Done, Page, Store, StoreError, StoredSession};
use crate::model::{Seq, SessionId, TurnId};
use futures_util::future::BoxFuture;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use reader::Reader;
use rusqlite::Connection;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use writer::{Order, Writer};

/// The form of the tables. A file of a later one is not touched.
const VERSION: i64 = 1;

/// From nothing to version 1.
const TABLES: &str = "
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        last INTEGER NOT NULL,
        state TEXT
    );
    CREATE TABLE turns (
        session INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        turn TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        key TEXT,
        body BLOB,
        outcome TEXT,
        delivered INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (session, seq)
    ) WITHOUT ROWID;
    CREATE INDEX turns_by_name ON turns (session, turn);
    CREATE TABLE events (
        session INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        turn TEXT NOT NULL,
        at INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        record BLOB NOT NULL,
        PRIMARY KEY (session, seq)
    ) WITHOUT ROWID;
";

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
    /// Held as long as the store lives; the system lets go of it with the process.
    _lock: Flock<File>,
}

impl SqliteStore {
    /// Opens the store in `folder`, which is made if it is missing. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When another process has the folder, or it cannot be used.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
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
        let connection = connect(&file).map_err(|error| unusable(&error))?;
        let version: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(|error| unusable(&error))?;
        if version > VERSION {
            return Err(OpenError::Later { file, form: version });
        }
        if version == 0 {
            let made = format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;");
            connection.execute_batch(&made).map_err(|error| unusable(&error))?;
        }
        let reader = Reader::new(connect(&file).map_err(|error| unusable(&error))?);
        Ok(Self { writer: Writer::start(connection), reader: Arc::new(Mutex::new(reader)), _lock: lock })
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
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // The cache of each connection, in KiB.
    connection.pragma_update(None, "cache_size", -2048)?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(connection)
}

fn failed(error: &rusqlite::Error) -> StoreError {
    StoreError(error.to_string())
}

impl Store for SqliteStore {
    fn append(&self, batch: Batch, done: Done) {
        self.writer.order(Order::Append(batch, done));
    }

    fn delivered(&self, session: &SessionId, turn: &TurnId) {
        self.writer.order(Order::Delivered(session.clone(), turn.clone()));
    }

    fn session(&self, id: &SessionId) -> BoxFuture<'_, Result<Option<StoredSession>, StoreError>> {
        let id = id.clone();
        self.read(move |reader| reader.session(&id))
    }

    fn events(&self, id: &SessionId, after: Seq, max_bytes: usize) -> BoxFuture<'_, Result<Page, StoreError>> {
        let id = id.clone();
        self.read(move |reader| reader.events(&id, after, max_bytes))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        let (told, flushed) = tokio::sync::oneshot::channel();
        self.writer.order(Order::Flush(told));
        Box::pin(async move {
            let _ = flushed.await;
        })
    }
}
