//! The sessions of this protocol, live and past, and the folder they are kept in.
//!
//! Owns that folder: which file is whose, what is found there at the start, what is removed. A session that was live when
//! its server died is closed here.

use super::history::{self, Limits};
use super::session::Session;
use super::times;
use crate::store::LineLog;
use crate::wire::session_line::{ExitData, LineData, write_line};
use crate::wire::sessions::SessionRecord;
use nix::fcntl::{Flock, FlockArg};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tempfile::TempDir;
use uuid::Uuid;

/// What is kept of a session, in its folder.
const RECORD: &str = "session.json";
/// The agent's opaque state, beside it.
const STATE: &str = "state.json";

/// Why a session is not opened.
#[derive(Debug, thiserror::Error)]
pub enum NotAdded {
    #[error("session_id already exists")]
    Exists,
    #[error("max sessions limit reached")]
    Full,
    #[error("the session cannot be kept: {0}")]
    Io(#[from] io::Error),
}

/// All sessions.
#[derive(Default)]
pub struct Book {
    place: OnceLock<Place>,
    pub(super) limits: Limits,
    sessions: Mutex<HashMap<Uuid, Arc<Session>>>,
    /// One session is opened at a time: an id, and the last place, are given once.
    opening: Mutex<()>,
}

/// Where they are kept.
struct Place {
    folder: PathBuf,
    /// Held as long as the folder is ours.
    _lock: Option<Flock<File>>,
    /// Without a folder that was named, one that goes with the server.
    _passing: Option<TempDir>,
}

impl Book {
    /// Opens the folder and reads what is in it. One that cannot be used is told of, and sessions end with the server.
    pub fn open(folder: Option<&Path>, limits: Limits) -> Self {
        let book = Self { limits, ..Self::default() };
        if let Some(folder) = folder {
            let opened = lock(folder).and_then(|lock| {
                let place = Place { folder: folder.to_owned(), _lock: Some(lock), _passing: None };
                let _ = book.place.set(place);
                book.read(folder)
            });
            if let Err(error) = opened {
                tracing::warn!(folder = %folder.display(), %error, "the folder of the sessions cannot be used: they end with this server");
            }
            book.prune();
        }
        book
    }

    /// The folder; made when it is first needed, where none was named.
    fn folder(&self) -> io::Result<&Path> {
        if let Some(place) = self.place.get() {
            return Ok(&place.folder);
        }
        let passing = tempfile::Builder::new().prefix("turnhost-sessions-").tempdir()?;
        let new = Place { folder: passing.path().to_owned(), _lock: None, _passing: Some(passing) };
        Ok(&self.place.get_or_init(|| new).folder)
    }

    /// The sessions that were before this server.
    fn read(&self, folder: &Path) -> io::Result<()> {
        for kind in fs::read_dir(folder)?.flatten() {
            if !kind.file_name().to_string_lossy().ends_with("-sessions") {
                continue;
            }
            for entry in fs::read_dir(kind.path())?.flatten() {
                let folder = entry.path();
                if let Some(session) = self.past(&folder) {
                    self.locked().insert(session.uuid, Arc::new(session));
                }
            }
        }
        Ok(())
    }

    fn past(&self, folder: &Path) -> Option<Session> {
        let text = fs::read(folder.join(RECORD)).ok()?;
        let mut record: SessionRecord = serde_json::from_slice(&text).ok()?;
        let uuid = Uuid::parse_str(&record.id).ok()?;
        let path = self.log_path(&uuid)?;
        if record.state == "running" {
            let detail = "the server ended while the session ran";
            record.error_detail = Some(detail.to_owned());
            record.exit_code = Some(-1);
            "failed".clone_into(&mut record.state);
            let now = times::now();
            record.ended_at = Some(now);
            if let Ok(log) = LineLog::reopen(path.clone()) {
                let mut line = Vec::new();
                let exit = ExitData { code: -1, error_detail: Some(detail), ..ExitData::default() };
                write_line(&mut line, log.end().bytes, "exit", &LineData::Exit(exit), now);
                if let Err(error) = log.append(&line) {
                    tracing::error!(session = record.id, %error, "the end of a session could not be noted");
                }
            }
            save(folder, &record);
        }
        Session::new(uuid, record, folder.to_owned(), LineLog::past(path)).ok()
    }

    /// Opens a new session, if less than `most` live; 0 is no limit.
    pub fn add(&self, uuid: Uuid, record: SessionRecord, most: usize) -> Result<Arc<Session>, NotAdded> {
        let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if self.get(&uuid).is_some() {
            return Err(NotAdded::Exists);
        }
        if most > 0 && self.live() >= most {
            return Err(NotAdded::Full);
        }
        let all = self.folder()?;
        let folder = all.join(format!("{}-sessions", record.agent)).join(uuid.hyphenated().to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let log = LineLog::create(all.join(format!("logs/{}.ndjson", uuid.hyphenated())))?;
        save(&folder, &record);
        let session = Arc::new(Session::new(uuid, record, folder, log).map_err(io::Error::other)?);
        self.locked().insert(uuid, session.clone());
        Ok(session)
    }

    pub fn get(&self, uuid: &Uuid) -> Option<Arc<Session>> {
        self.locked().get(uuid).cloned()
    }

    /// Of the id as somebody sent it.
    pub fn find(&self, id: &str) -> Option<Arc<Session>> {
        self.get(&Uuid::parse_str(id).ok()?)
    }

    /// In the order they were made, then by their ids.
    pub fn all(&self) -> Vec<Arc<Session>> {
        let mut all: Vec<_> = self.locked().values().cloned().collect();
        all.sort_by_cached_key(|session| (session.look(|record| record.created_at), session.uuid));
        all
    }

    /// Those that nobody has seen end: what is left to do behind the end of a session counts for no one.
    fn live(&self) -> usize {
        self.locked().values().filter(|session| session.look(|record| record.state == "running")).count()
    }

    /// Forgets a session. Its log stays, and what is told of it in the history.
    pub fn delete(&self, session: &Session) {
        history::note(session);
        self.remove(session);
    }

    /// Forgets a session.
    pub fn remove(&self, session: &Session) {
        self.locked().remove(&session.uuid);
        if let Err(error) = fs::remove_dir_all(&session.folder) {
            tracing::debug!(folder = %session.folder.display(), %error, "a session's folder was not removed");
        }
    }

    /// Where the logs are, once there is such a place.
    pub(super) fn logs(&self) -> Option<PathBuf> {
        Some(self.place.get()?.folder.join("logs"))
    }

    /// Where the log of a session is, whether there is such a session or not.
    pub fn log_path(&self, uuid: &Uuid) -> Option<PathBuf> {
        let logs = self.logs()?;
        let path = logs.join(format!("{}.ndjson", uuid.hyphenated()));
        // Older versions of the peer wrote this one.
        let older = logs.join(format!("{}.jsonl", uuid.hyphenated()));
        Some(if !path.exists() && older.exists() { older } else { path })
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a folder for this process alone.
fn lock(folder: &Path) -> io::Result<Flock<File>> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join("sessions.lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => io::Error::other("another server uses it"),
        other => other.into(),
    })
}

/// Writes what is kept of a session. What cannot be written is lost with the server, and not before.
pub fn save(folder: &Path, record: &SessionRecord) {
    let text = serde_json::to_vec(record).unwrap_or_default();
    if let Err(error) = replace(&folder.join(RECORD), &text) {
        tracing::warn!(session = record.id, %error, "what is known of a session could not be kept");
    }
}

/// Keeps the agent's state, for a session that goes on with it.
pub fn save_state(folder: &Path, state: Option<&str>) {
    let path = folder.join(STATE);
    let kept = match state {
        Some(state) => replace(&path, state.as_bytes()),
        None => fs::remove_file(&path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }),
    };
    if let Err(error) = kept {
        tracing::warn!(folder = %folder.display(), %error, "the state of a session could not be kept");
    }
}

/// The state that was kept.
pub fn state(folder: &Path) -> Option<String> {
    fs::read_to_string(folder.join(STATE)).ok()
}

pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    drop(file);
    fs::rename(new, path)
}
