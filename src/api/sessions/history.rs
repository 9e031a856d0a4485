//! What is left of sessions: logs, also of those that were deleted, and what is told of them.
//!
//! Owns `GET /sessions/history`, and the file beside a log that remembers a deleted session.

use super::book::{Book, replace};
use super::session::Session;
use crate::wire::sessions::SessionRecord;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use uuid::Uuid;

/// A session as the history tells of it.
pub struct Past {
    pub record: SessionRecord,
    pub log: PathBuf,
    pub bytes: u64,
}

/// Where a deleted session is remembered.
pub(super) fn beside(log: &Path) -> PathBuf {
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
        let known = self.records();
        let ids: HashSet<Uuid> = known.keys().copied().collect();
        let known = known.into_iter().filter_map(|(uuid, record)| {
            let log = self.log_path(&uuid)?;
            Some(Past { record, bytes: log.metadata().map_or(0, |file| file.len()), log })
        });
        known.chain(self.left(&ids)).collect()
    }

    /// Those of which the log is left, and nothing else but what may stand beside it.
    pub(super) fn left(&self, but: &HashSet<Uuid>) -> impl Iterator<Item = Past> {
        let folder = self.logs().and_then(|logs| fs::read_dir(logs).ok());
        let files = folder.into_iter().flatten().flatten().map(|entry| entry.path());
        files.filter_map(move |log| {
            let is_log = ["ndjson", "jsonl"].contains(&log.extension()?.to_str()?);
            let id = Uuid::parse_str(log.file_stem()?.to_str()?).ok()?;
            if !is_log || but.contains(&id) { None } else { left_behind(log) }
        })
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
    Some(Past { record, bytes: file.len(), log })
}
