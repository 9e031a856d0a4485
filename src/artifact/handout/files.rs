//! What a session knows of each file: which version it saw, announced, was answered for, and uploaded.
//!
//! Owns these steps and their order; pure, with the time given from outside. Touches no file and no network.

use super::beneath::Version;
use crate::model::ArtifactFailure;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Failures that are kept until somebody asks; beyond it they are only counted.
const FAILURES: usize = 1_000;
/// Files that are remembered while they are ignored.
const ASIDE: usize = 10_000;
/// Uploads of one file that were void because it changed; then it is a failure.
const VOIDS: u32 = 5;

/// One file. Its key is its real path, so that it is one file whichever directory was named to reach it.
struct File {
    /// The path as it is announced.
    shown: String,
    /// The real path of the watched directory that owns it.
    root: Arc<Path>,
    seen: Version,
    /// When it was last seen to change.
    changed: Instant,
    /// Its writer closed it after that, or it was renamed into place.
    closed: bool,
    /// The version that was announced last.
    told: Option<Version>,
    stage: Stage,
    /// It was reported as failed and is not waited for again.
    given_up: bool,
    voids: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    /// Announced; the answer is due.
    Asked {
        number: u64,
        since: Instant,
    },
    Sending,
}

impl File {
    /// Whether a version is to be announced.
    fn is_owed(&self) -> bool {
        let free = match self.stage {
            Stage::Idle => true,
            // Nobody answered for the version before.
            Stage::Asked { .. } => self.given_up,
            Stage::Sending => false,
        };
        free && self.seen.size > 0 && self.told != Some(self.seen)
    }

    fn is_waited_for(&self) -> bool {
        match self.stage {
            Stage::Idle => self.is_owed() && !self.given_up,
            Stage::Asked { .. } | Stage::Sending => !self.given_up || self.is_owed(),
        }
    }
}

/// What was just seen of a file.
pub(super) struct Sight {
    pub(super) shown: String,
    pub(super) root: Arc<Path>,
    pub(super) version: Version,
    /// When it changed, if this version is new.
    pub(super) changed: Instant,
    /// `None`: nothing new is known about its writer.
    pub(super) closed: Option<bool>,
}

/// A file that could be announced.
pub(super) struct Candidate {
    pub(super) key: PathBuf,
    pub(super) root: Arc<Path>,
    pub(super) version: Version,
    /// It was quiet for long enough.
    pub(super) quiet: bool,
    pub(super) closed: bool,
}

/// An announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The last part of its path.
    pub filename: String,
    /// The directory as it was named, and the path beneath it.
    pub filepath: String,
    /// Bytes.
    pub size: u64,
}

/// Why an answer is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such file was announced in this session, or it is gone.
    #[error("the answer names a file that this session did not announce, or that is gone")]
    NotAnnounced,
    /// There was an answer before.
    #[error("this announcement was answered already")]
    AnsweredAlready,
    /// The session no longer hands out files.
    #[error("the session has ended")]
    Ended,
}

/// How an upload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    Done,
    /// The file is not, or was not all the time, what was announced.
    Void,
    Failed(String),
}

/// All files of a session.
#[derive(Default)]
pub(super) struct Book {
    files: HashMap<PathBuf, File>,
    /// Announced paths and whose they are.
    shown: HashMap<String, PathBuf>,
    /// Files with something left to do, so that nobody goes through all of them.
    open: BTreeSet<PathBuf>,
    due: BTreeMap<u64, PathBuf>,
    /// Versions that were handed out of files that are ignored since then, in case they are no longer.
    aside: HashMap<PathBuf, Version>,
    last_number: u64,
    last_answer: Option<Instant>,
    failures: Vec<ArtifactFailure>,
    more_failures: usize,
}

impl Book {
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// The number of the last announcement.
    pub(super) fn last_number(&self) -> u64 {
        self.last_number
    }

    pub(super) fn knows(&self, key: &Path) -> bool {
        self.files.contains_key(key)
    }

    fn refresh(&mut self, key: &Path) {
        let open = self.files.get(key).is_some_and(|file| file.is_owed() || file.stage != Stage::Idle);
        if open {
            self.open.insert(key.to_owned());
        } else {
            self.open.remove(key);
        }
    }

    /// Notes how a file looks.
    pub(super) fn see(&mut self, key: &Path, sight: Sight) {
        match self.files.get_mut(key) {
            None => {
                let file = File {
                    shown: sight.shown,
                    root: sight.root,
                    seen: sight.version,
                    changed: sight.changed,
                    closed: sight.closed.unwrap_or(false),
                    told: self.aside.remove(key),
                    stage: Stage::Idle,
                    given_up: false,
                    voids: 0,
                };
                self.files.insert(key.to_owned(), file);
            }
            Some(file) => {
                if file.seen != sight.version || sight.closed == Some(false) {
                    file.changed = file.changed.max(sight.changed);
                }
                file.seen = sight.version;
                file.closed = sight.closed.unwrap_or(file.closed);
                if file.stage == Stage::Idle {
                    file.shown = sight.shown;
                    file.root = sight.root;
                }
            }
        }
        self.refresh(key);
    }

    /// Forgets a file that is gone or no longer ours.
    pub(super) fn remove(&mut self, key: &Path) {
        let Some(file) = self.files.remove(key) else { return };
        if let Stage::Asked { number, .. } = file.stage {
            self.due.remove(&number);
        }
        if self.shown.get(&file.shown).is_some_and(|of| of == key) {
            self.shown.remove(&file.shown);
        }
        self.open.remove(key);
    }

    /// Forgets the files for which this holds.
    pub(super) fn remove_where(&mut self, gone: impl Fn(&Path) -> bool) {
        let keys: Vec<PathBuf> = self.files.keys().filter(|key| gone(key)).cloned().collect();
        for key in &keys {
            self.remove(key);
        }
    }

    /// As [`Book::remove`], of a file that may only be ignored for a while: what was handed out is not announced again.
    pub(super) fn set_aside(&mut self, key: &Path) {
        let told = self.files.get(key).filter(|file| file.stage == Stage::Idle).and_then(|file| file.told);
        self.remove(key);
        if let Some(told) = told.filter(|_| self.aside.len() < ASIDE) {
            self.aside.insert(key.to_owned(), told);
        }
    }

    /// As [`Book::set_aside`], of all files for which this holds.
    pub(super) fn set_aside_where(&mut self, ignored: impl Fn(&Path) -> bool) {
        let keys: Vec<PathBuf> = self.files.keys().filter(|key| ignored(key)).cloned().collect();
        for key in &keys {
            self.set_aside(key);
        }
    }

    /// Files that were not announced as they are now; all of them, or only the quiet ones.
    pub(super) fn candidates(&self, now: Instant, quiet: Duration, all: bool) -> Vec<Candidate> {
        let owed = self.open.iter().filter_map(|key| Some((key, self.files.get(key).filter(|file| file.is_owed())?)));
        owed.map(|(key, file)| Candidate {
            key: key.clone(),
            root: file.root.clone(),
            version: file.seen,
            quiet: now.saturating_duration_since(file.changed) >= quiet,
            closed: file.closed,
        })
        .filter(|candidate| all || candidate.quiet)
        .collect()
    }

    /// When the next file will have been quiet for long enough.
    pub(super) fn next_quiet(&self, quiet: Duration) -> Option<Instant> {
        let owed = self.open.iter().filter_map(|key| self.files.get(key)).filter(|file| file.is_owed());
        owed.map(|file| file.changed + quiet).min()
    }

    /// Makes the announcement of a version due. `false` if the file is not owed, or is another version by now.
    pub(super) fn announce(&mut self, key: &Path, version: Version, now: Instant) -> bool {
        let Some(file) = self.files.get_mut(key).filter(|file| file.is_owed() && file.seen == version) else {
            return false;
        };
        if let Stage::Asked { number, .. } = file.stage {
            self.due.remove(&number);
        }
        self.last_number += 1;
        file.told = Some(version);
        file.given_up = false;
        file.stage = Stage::Asked { number: self.last_number, since: now };
        self.shown.insert(file.shown.clone(), key.to_owned());
        self.due.insert(self.last_number, key.to_owned());
        self.refresh(key);
        true
    }

    /// The first announcement after this number whose answer is due.
    pub(super) fn due_after(&self, number: u64) -> Option<(u64, Announcement)> {
        let (number, key) = self.due.range(number + 1..).next()?;
        let file = self.files.get(key)?;
        let name = key.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let size = file.told.map_or(0, |told| told.size);
        Some((*number, Announcement { filename: name, filepath: file.shown.clone(), size }))
    }

    /// A version cannot be read: it is a failure, and not tried again.
    pub(super) fn unreadable(&mut self, key: &Path, version: Version, why: String) {
        let Some(file) = self.files.get_mut(key).filter(|file| file.is_owed() && file.seen == version) else { return };
        file.told = Some(version);
        let path = file.shown.clone();
        self.fail(path, why);
        self.refresh(key);
    }

    /// A reader came who may answer: it gets the whole time for that.
    pub(super) fn reader_came(&mut self, now: Instant) {
        self.last_answer = Some(now);
    }

    /// An answer came: which file beneath which directory, in which version, is to be sent.
    pub(super) fn answer(&mut self, shown: &str, now: Instant) -> Result<(PathBuf, Arc<Path>, Version), Refused> {
        let key = self.shown.get(shown).ok_or(Refused::NotAnnounced)?.clone();
        let file = self.files.get_mut(&key).ok_or(Refused::NotAnnounced)?;
        let Stage::Asked { number, .. } = file.stage else { return Err(Refused::AnsweredAlready) };
        let version = file.told.ok_or(Refused::NotAnnounced)?;
        self.due.remove(&number);
        file.stage = Stage::Sending;
        self.last_answer = Some(now);
        let root = file.root.clone();
        Ok((key, root, version))
    }

    /// An upload ended.
    pub(super) fn sent(&mut self, key: &Path, version: Version, how: Sent, now: Instant) {
        let Some(file) = self.files.get_mut(key) else { return };
        if file.stage != Stage::Sending || file.told != Some(version) {
            return;
        }
        file.stage = Stage::Idle;
        let failure = match how {
            Sent::Done => {
                file.voids = 0;
                None
            }
            Sent::Void => {
                file.voids += 1;
                let hopeless = file.voids >= VOIDS;
                if !hopeless {
                    file.told = None;
                    file.changed = now;
                    file.given_up = false;
                }
                hopeless.then(|| "the file changed each time while it was uploaded".to_owned())
            }
            Sent::Failed(why) => Some(why),
        };
        let failure = failure.filter(|_| !file.given_up).map(|error| (file.shown.clone(), error));
        if let Some((path, error)) = failure {
            self.fail(path, error);
        }
        self.refresh(key);
    }

    /// Notes a failure for whoever asks next.
    pub(super) fn fail(&mut self, path: String, error: String) {
        tracing::warn!("artifact {path}: {error}");
        if self.failures.len() < FAILURES {
            self.failures.push(ArtifactFailure { path, error });
        } else {
            self.more_failures += 1;
        }
    }

    /// The failures since the last call.
    pub(super) fn take_failures(&mut self) -> Vec<ArtifactFailure> {
        let mut failures = std::mem::take(&mut self.failures);
        let more = std::mem::take(&mut self.more_failures);
        if let Some(last) = failures.last().filter(|_| more > 0) {
            let (path, error) = (last.path.clone(), format!("and {more} more failures that are in the log"));
            failures.push(ArtifactFailure { path, error });
        }
        failures
    }

    /// Files that are worth waiting for.
    pub(super) fn waited_for(&self) -> BTreeSet<PathBuf> {
        let waited = |key: &&PathBuf| self.files.get(*key).is_some_and(File::is_waited_for);
        self.open.iter().filter(waited).cloned().collect()
    }

    /// Until when answers are waited for, if any is due among these.
    pub(super) fn answers_until(
        &self,
        keys: &BTreeSet<PathBuf>,
        start: Instant,
        patience: Duration,
    ) -> Option<Instant> {
        let asked = keys.iter().filter_map(|key| match self.files.get(key) {
            Some(File { stage: Stage::Asked { since, .. }, given_up: false, .. }) => Some(*since),
            _ => None,
        });
        let latest = asked.max()?;
        Some(latest.max(start).max(self.last_answer.unwrap_or(start)) + patience)
    }

    /// Stops to wait for these and notes each as a failure; only those that nobody answered for, or all.
    pub(super) fn give_up(&mut self, keys: &BTreeSet<PathBuf>, unanswered_only: bool, why: &dyn Fn(&str) -> String) {
        for key in keys {
            let Some(file) = self.files.get_mut(key).filter(|file| file.is_waited_for()) else { continue };
            let state = match file.stage {
                Stage::Asked { .. } => "nobody answered its announcement",
                _ if unanswered_only => continue,
                Stage::Idle => "it was still being written",
                Stage::Sending => "its upload took too long",
            };
            file.given_up = true;
            let path = file.shown.clone();
            self.fail(path, why(state));
            self.refresh(key);
        }
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
