//! The sessions of this protocol, live and past, and the folder they are kept in.
//!
//! Owns that folder: which file is whose, what is found there at the start, what is removed. A session that was live when
//! its server died is closed here. Of those that have ended only the last ones are in memory, the others are read again when
//! somebody asks for them.

use super::history::{self, beside};
use super::kept::{Kept, Limits};
use super::session::Session;
use super::times;
use crate::store::LineLog;
use crate::wire::session_line::{ExitData, LineData, write_line};
use crate::wire::sessions::SessionRecord;
use nix::fcntl::{Flock, FlockArg};
use std::collections::{HashMap, HashSet, VecDeque};
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

/// So many sessions that have ended are in memory.
const RECENT: usize = 256;

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
    limits: Limits,
    sessions: Mutex<Sessions>,
    kept: Mutex<Kept>,
    /// One session is opened, read or removed at a time: an id, and the last place, are given once, and what is found in
    /// the folder is whole.
    opening: Mutex<()>,
}

/// Those in memory.
#[derive(Default)]
struct Sessions {
    all: HashMap<Uuid, Arc<Session>>,
    /// Which of them have ended, longest known first.
    recent: VecDeque<Uuid>,
}

impl Sessions {
    /// One that has ended, and can be read again.
    fn ended(&mut self, uuid: Uuid) {
        self.recent.push_back(uuid);
        while self.recent.len() > RECENT
            && let Some(uuid) = self.recent.pop_front()
        {
            self.all.remove(&uuid);
        }
    }

    fn remove(&mut self, uuid: &Uuid) {
        if self.all.remove(uuid).is_some_and(|session| !session.is_live()) {
            self.recent.retain(|one| one != uuid);
        }
    }
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
                fs::read_dir(folder).map(|_| book.read())
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

    /// The sessions that were before this server: those that lived are closed, none is kept in memory.
    fn read(&self) {
        let mut found = HashSet::new();
        for (uuid, folder) in self.folders() {
            let Some(record) = record(&folder).map(|record| self.closed(&uuid, &folder, record)) else { continue };
            let bytes = self.log_path(&uuid).and_then(|log| log.metadata().ok()).map_or(0, |file| file.len());
            self.keep(uuid, &record, bytes);
            found.insert(uuid);
        }
        if self.limits.are_set() {
            for past in self.left(&found) {
                if let Ok(uuid) = Uuid::parse_str(&past.record.id) {
                    self.keep(uuid, &past.record, past.bytes);
                }
            }
        }
    }

    /// Notes an ended session for the limits, if there are any.
    fn keep(&self, uuid: Uuid, record: &SessionRecord, bytes: u64) {
        if self.limits.are_set() {
            self.kept().add(uuid, record.ended_at.unwrap_or(record.created_at), bytes);
        }
    }

    /// A record as it is when its session's server is no more.
    fn closed(&self, uuid: &Uuid, folder: &Path, mut record: SessionRecord) -> SessionRecord {
        if record.state != "running" {
            return record;
        }
        let detail = "the server ended while the session ran";
        record.error_detail = Some(detail.to_owned());
        record.exit_code = Some(-1);
        "failed".clone_into(&mut record.state);
        let now = times::now();
        record.ended_at = Some(now);
        if let Some(log) = self.log_path(uuid).and_then(|path| LineLog::reopen(path).ok()) {
            let mut line = Vec::new();
            let exit = ExitData { code: -1, error_detail: Some(detail), ..ExitData::default() };
            write_line(&mut line, log.end().bytes, "exit", &LineData::Exit(exit), now);
            if let Err(error) = log.append(&line) {
                tracing::error!(session = record.id, %error, "the end of a session could not be noted");
            }
        }
        save(folder, &record);
        record
    }

    /// The folders of all sessions that were not deleted.
    fn folders(&self) -> impl Iterator<Item = (Uuid, PathBuf)> {
        self.kinds().flat_map(|kind| fs::read_dir(kind).into_iter().flatten().flatten()).filter_map(|entry| {
            let uuid = Uuid::parse_str(entry.file_name().to_str()?).ok()?;
            Some((uuid, entry.path()))
        })
    }

    /// The folders of the agents' sessions.
    fn kinds(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let all = self.place.get().and_then(|place| fs::read_dir(&place.folder).ok());
        let all = all.into_iter().flatten().flatten();
        all.filter(|kind| kind.file_name().to_string_lossy().ends_with("-sessions")).map(|kind| kind.path())
    }

    /// Opens a new session, if less than `most` live; 0 is no limit.
    pub fn add(&self, uuid: Uuid, record: SessionRecord, most: usize) -> Result<Arc<Session>, NotAdded> {
        let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if self.get(&uuid).is_some() || self.folder_of(&uuid).is_some() {
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
        self.kept().remove(&uuid);
        self.locked().all.insert(uuid, session.clone());
        Ok(session)
    }

    /// If it is in memory: one that lives is.
    pub fn get(&self, uuid: &Uuid) -> Option<Arc<Session>> {
        self.locked().all.get(uuid).cloned()
    }

    /// The same for one that ended. May read files.
    pub fn find(&self, uuid: &Uuid) -> Option<Arc<Session>> {
        let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = self.get(uuid) {
            return Some(session);
        }
        let folder = self.folder_of(uuid)?;
        let session = Session::new(*uuid, record(&folder)?, folder, LineLog::past(self.log_path(uuid)?)).ok()?;
        let session = Arc::new(session);
        let mut sessions = self.locked();
        sessions.all.insert(*uuid, session.clone());
        sessions.ended(*uuid);
        Some(session)
    }

    /// A folder without a record is what is left of a session that could not be opened.
    fn folder_of(&self, uuid: &Uuid) -> Option<PathBuf> {
        let name = uuid.hyphenated().to_string();
        self.kinds().map(|kind| kind.join(&name)).find(|folder| folder.join(RECORD).is_file())
    }

    /// What is known of all sessions that were not deleted. Reads files.
    pub fn records(&self) -> HashMap<Uuid, SessionRecord> {
        let mut all: HashMap<Uuid, SessionRecord> =
            self.locked().all.iter().map(|(uuid, session)| (*uuid, session.record())).collect();
        for (uuid, folder) in self.folders() {
            if !all.contains_key(&uuid)
                && let Some(record) = record(&folder)
            {
                all.insert(uuid, record);
            }
        }
        all
    }

    /// A session has ended. Unless what is known of it could be `saved`, it stays in memory.
    pub fn ended(&self, session: &Session, saved: bool) {
        let one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sessions = self.locked();
        match sessions.all.get(&session.uuid).map(|known| std::ptr::eq(&raw const **known, session)) {
            Some(true) if saved => sessions.ended(session.uuid),
            // It was deleted meanwhile, and its id, folder and log are another's.
            Some(false) => return,
            Some(true) | None => {}
        }
        drop(sessions);
        self.keep(session.uuid, &session.record(), session.log.end().bytes);
        drop(one_at_a_time);
        self.prune();
    }

    /// Forgets sessions that have ended, with their logs, as far as the limits say so: the oldest first.
    pub fn prune(&self) {
        loop {
            let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(uuid) = self.kept().next_beyond(self.limits, times::now()) else { break };
            let known = self.get(&uuid).map(|session| session.folder.clone());
            if let Some(folder) = known.or_else(|| self.folder_of(&uuid)) {
                self.take_out(&uuid, &folder);
            }
            let Some(log) = self.log_path(&uuid) else { break };
            let _ = fs::remove_file(beside(&log));
            if let Err(error) = fs::remove_file(&log) {
                tracing::debug!(log = %log.display(), %error, "a log was not removed");
            }
        }
    }

    /// Those that nobody has seen end: what is left to do behind the end of a session counts for no one.
    fn live(&self) -> usize {
        self.locked().all.values().filter(|session| session.look(|record| record.state == "running")).count()
    }

    /// Forgets a session. Its log stays, and what is told of it in the history.
    pub fn delete(&self, session: &Session) {
        history::note(session);
        self.remove(session);
    }

    /// Forgets a session.
    pub fn remove(&self, session: &Session) {
        let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        self.take_out(&session.uuid, &session.folder);
    }

    fn take_out(&self, uuid: &Uuid, folder: &Path) {
        self.locked().remove(uuid);
        if let Err(error) = fs::remove_dir_all(folder) {
            tracing::debug!(folder = %folder.display(), %error, "a session's folder was not removed");
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

    fn locked(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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

fn record(folder: &Path) -> Option<SessionRecord> {
    serde_json::from_slice(&fs::read(folder.join(RECORD)).ok()?).ok()
}

/// Writes what is kept of a session, and tells whether it is. What cannot be written is lost with the server, and not before.
pub fn save(folder: &Path, record: &SessionRecord) -> bool {
    let text = serde_json::to_vec(record).unwrap_or_default();
    let saved = replace(&folder.join(RECORD), &text);
    if let Err(error) = &saved {
        tracing::warn!(session = record.id, %error, "what is known of a session could not be kept");
    }
    saved.is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn add(book: &Book, n: u128) -> Result<Arc<Session>, NotAdded> {
        let uuid = Uuid::from_u128(n);
        let record =
            SessionRecord { id: uuid.to_string(), agent: "x".into(), state: "running".into(), ..Default::default() };
        book.add(uuid, record, 0)
    }

    fn end(book: &Book, session: &Session) {
        session.log.append(b"a line\n").unwrap();
        session.lose();
        book.ended(session, save(&session.folder, &session.record()));
    }

    #[test]
    fn the_end_of_a_deleted_session_does_not_touch_the_next_of_its_id() {
        for max_bytes in [None, Some(0)] {
            let folder = TempDir::new().unwrap();
            let book = Book::open(Some(folder.path()), Limits { max_age: None, max_bytes });
            let first = add(&book, 0).unwrap();
            first.lose();
            book.delete(&first);
            let second = add(&book, 0).unwrap();
            // What it did last was to tell of its end.
            book.ended(&first, true);
            for n in 1..=RECENT as u128 + 1 {
                end(&book, &add(&book, n).unwrap());
            }
            assert!(Arc::ptr_eq(&book.get(&second.uuid).unwrap(), &second), "one that lives is in memory");
            assert!(second.log.append(b"a line\n").is_ok() && second.log.path().exists());
            assert!(book.get(&Uuid::from_u128(1)).is_none());
            assert_eq!(book.find(&Uuid::from_u128(1)).is_some(), max_bytes.is_none());
        }
    }

    #[test]
    fn what_is_left_of_a_session_that_was_not_opened_does_not_take_its_id() {
        let folder = TempDir::new().unwrap();
        let book = Book::open(Some(folder.path()), Limits::default());
        fs::write(folder.path().join("logs"), "no folder").unwrap();
        assert!(matches!(add(&book, 1), Err(NotAdded::Io(_))));
        fs::remove_file(folder.path().join("logs")).unwrap();
        assert!(add(&book, 1).is_ok());
        assert!(matches!(add(&book, 1), Err(NotAdded::Exists)));
    }
}
