//! What is left of sessions: logs, also of those that were deleted, and what is told of them.
//!
//! Owns `GET /sessions/history`, the file beside a log that remembers a deleted session, and which of the past is forgotten
//! when there is too much of it.

use super::book::{Book, replace};
use super::session::Session;
use super::times;
use crate::wire::sessions::SessionRecord;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use uuid::Uuid;

/// How much of the past is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// How long a session is remembered that has ended.
    pub max_age: Option<Duration>,
    /// How many bytes the logs of those may have together.
    pub max_bytes: Option<u64>,
}

/// A session as the history tells of it.
pub struct Past {
    pub record: SessionRecord,
    pub log: PathBuf,
    pub bytes: u64,
    /// Whether it can still be asked for.
    session: Option<Arc<Session>>,
}

/// Where a deleted session is remembered.
fn beside(log: &Path) -> PathBuf {
    log.with_extension("json")
}

/// Remembers a session that is deleted.
pub fn note(session: &Session) {
    let text = serde_json::to_vec(&session.record()).unwrap_or_default();
    if let Err(error) = replace(&beside(session.log.path()), &text) {
        tracing::debug!(session = %session.engine_id, %error, "a deleted session is not remembered");
    }
}

impl Book {
    /// The past and the present, newest first.
    pub fn history(&self, most: usize) -> Vec<Past> {
        let mut all = self.everything();
        all.sort_by(|one, other| {
            (other.record.created_at, &other.record.id).cmp(&(one.record.created_at, &one.record.id))
        });
        all.truncate(most);
        all
    }

    fn everything(&self) -> Vec<Past> {
        let known = self.all();
        let ids: HashSet<Uuid> = known.iter().map(|session| session.uuid).collect();
        let known = known.into_iter().map(|session| Past {
            record: session.record(),
            log: session.log.path().to_owned(),
            bytes: session.log.end().bytes,
            session: Some(session),
        });
        let folder = self.logs().and_then(|logs| fs::read_dir(logs).ok());
        let files = folder.into_iter().flatten().flatten().map(|entry| entry.path());
        let left = files.filter_map(|log| {
            let is_log = ["ndjson", "jsonl"].contains(&log.extension()?.to_str()?);
            let id = Uuid::parse_str(log.file_stem()?.to_str()?).ok()?;
            if !is_log || ids.contains(&id) { None } else { left_behind(log) }
        });
        known.chain(left).collect()
    }

    /// Forgets sessions that have ended, with their logs, as far as the limits say so: the oldest first.
    pub fn prune(&self) {
        let Limits { max_age, max_bytes } = self.limits;
        if max_age.is_none() && max_bytes.is_none() {
            return;
        }
        let ended =
            |past: &Past| past.record.ended_at.filter(|_| past.session.as_ref().is_none_or(|one| !one.is_live()));
        let mut past: Vec<(u64, Past)> =
            self.everything().into_iter().filter_map(|past| Some((ended(&past)?, past))).collect();
        past.sort_by_key(|(ended, _)| *ended);
        let oldest = max_age.map(|age| times::now().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
        let mut bytes: u64 = past.iter().map(|(_, past)| past.bytes).sum();
        for (ended, past) in past {
            let is_old = oldest.is_some_and(|oldest| ended < oldest);
            if !is_old && max_bytes.is_none_or(|most| bytes <= most) {
                break;
            }
            bytes = bytes.saturating_sub(past.bytes);
            if let Some(session) = &past.session {
                self.remove(session);
            }
            let _ = fs::remove_file(beside(&past.log));
            if let Err(error) = fs::remove_file(&past.log) {
                tracing::debug!(log = %past.log.display(), %error, "a log was not removed");
            }
        }
    }
}

/// What is known of a session of which the log is left. Of another server's, or an older one's, that is not much.
fn left_behind(log: PathBuf) -> Option<Past> {
    let file = log.metadata().ok()?;
    let remembered = fs::read(beside(&log)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let record = remembered.unwrap_or_else(|| {
        let written = file.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let written = u64::try_from(written.as_millis()).unwrap_or(u64::MAX);
        let id = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        SessionRecord { id, created_at: written, ended_at: Some(written), ..SessionRecord::default() }
    });
    Some(Past { record, bytes: file.len(), log, session: None })
}
