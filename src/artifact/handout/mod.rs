//! The watched directories of one session: which files are complete, who was told, what was uploaded.
//!
//! Owns the order of these and the waits around them. The parts:
//!
//! | file | owns |
//! | --- | --- |
//! | `kernel` | the one inotify instance of the process |
//! | `scan` | the directories on disk |
//! | `rules` | what is ignored |
//! | `files` | what happened to each file, pure |
//! | `beneath` | opening a file that must lie beneath its directory |
//! | `upload` | one upload |
//!
//! Files are announced when they are complete: two seconds after their last change, or at once at the end of a request
//! if their writer closed them. Each version is announced once; a reader has a cursor and not a queue.

mod beneath;
mod files;
mod kernel;
mod rules;
mod scan;
#[cfg(test)]
mod tests;
mod upload;

use crate::awake::{self, Missed};
use crate::model::{ArtifactFailure, Watch};
use crate::redact::Secret;
use crate::telemetry::{Whose, carried, carried_call};
use files::{Book, Sent};
use kernel::{Inbox, Kernel};
use scan::{Tree, When};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use upload::Upload;

pub use files::{Announcement, Refused};
#[cfg(any(fuzzing, test))]
pub use rules::fuzz_rules;

/// Notices are gathered for this long before files are looked at; writers cause many.
const GATHER: Duration = Duration::from_millis(100);
/// How often directories are scanned that the kernel does not watch.
const SCAN: Duration = Duration::from_secs(1);
/// How often the end of a request looks again at files that somebody still writes.
const LOOK: Duration = Duration::from_millis(25);

/// Bounds of one session's files.
#[derive(Debug, Clone)]
pub struct HandoutLimits {
    /// How long a file must not change before it counts as complete.
    pub quiet: Duration,
    /// How long the end of a request waits without any answer to an announcement.
    pub answer: Duration,
    /// How long one attempt to upload may take.
    pub put: Duration,
    /// How long the end of a request waits in all.
    pub whole: Duration,
    /// How long the end of a session waits in all.
    pub drain: Duration,
    /// Uploads of one session at once.
    pub uploads_at_once: usize,
    /// Files, and directories, that one session may have; more are not handed out, with a warning in the log.
    pub max_files: usize,
}

impl Default for HandoutLimits {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(2),
            answer: Duration::from_secs(10),
            put: Duration::from_secs(30),
            whole: Duration::from_mins(1),
            drain: Duration::from_secs(50),
            uploads_at_once: 4,
            max_files: 100_000,
        }
    }
}

/// A directory that cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch the artifacts directory {directory:?}: {why}")]
pub struct WatchError {
    /// As the request named it.
    pub directory: String,
    /// What the system says.
    #[source]
    pub why: io::Error,
}

/// The files that one session hands out. Cheap until [`Handout::watch`] is called; dropping the last `Arc` ends its
/// watches, announcements and uploads.
pub struct Handout {
    shared: Arc<Shared>,
    /// Tasks hold what is shared, and end with this.
    _stop: DropGuard,
}

struct Shared {
    http: reqwest::Client,
    limits: HandoutLimits,
    runtime: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Held while directories are read, hence only on threads that may block.
    tree: Mutex<Option<Tree>>,
    book: Arc<Mutex<Book>>,
    inbox: Arc<Inbox>,
    /// Announcements, answers and ends of uploads.
    moved: Notify,
    uploads: Semaphore,
    watching: AtomicBool,
    /// Some directory has to be scanned.
    incomplete: AtomicBool,
    /// Instead of the shared one, for tests.
    kernel: Option<Arc<Kernel>>,
}

/// A reader of announcements. It has a cursor, and first gets those whose answer is still due.
pub struct Announcements {
    shared: Arc<Shared>,
    after: u64,
}

impl Handout {
    /// Without a directory yet. `http` must not follow redirects ([`crate::outbound::client_without_redirects`]);
    /// background work is `runtime`'s and counted by `tasks`.
    #[must_use]
    pub fn new(http: reqwest::Client, limits: HandoutLimits, runtime: Handle, tasks: TaskTracker) -> Arc<Self> {
        Self::with_kernel(http, limits, runtime, tasks, None)
    }

    fn with_kernel(
        http: reqwest::Client,
        limits: HandoutLimits,
        runtime: Handle,
        tasks: TaskTracker,
        kernel: Option<Arc<Kernel>>,
    ) -> Arc<Self> {
        let stop = CancellationToken::new();
        let uploads = Semaphore::new(limits.uploads_at_once.max(1));
        let shared = Arc::new(Shared {
            http,
            limits,
            runtime,
            tasks,
            stop: stop.clone(),
            tree: Mutex::default(),
            book: Arc::default(),
            inbox: Arc::default(),
            moved: Notify::new(),
            uploads,
            watching: AtomicBool::new(false),
            incomplete: AtomicBool::new(false),
            kernel,
        });
        Arc::new(Self { shared, _stop: stop.drop_guard() })
    }

    /// Makes each directory if it is missing and begins to watch it. A directory that is watched already stays so; its
    /// rules are replaced if `watch` has some. Files that are there already are announced when they are complete.
    ///
    /// # Errors
    /// The first directory that cannot be made or read; the others are watched nevertheless.
    pub async fn watch(self: &Arc<Self>, watch: &Watch) -> Result<(), WatchError> {
        if watch.directories.is_empty() {
            return Ok(());
        }
        let (shared, watch) = (self.shared.clone(), watch.clone());
        let done = self.shared.runtime.spawn_blocking(carried_call(move || shared.add(&watch))).await;
        done.unwrap_or_else(|_| {
            let why = io::Error::other("the server is stopping");
            Err(WatchError { directory: String::new(), why })
        })
    }

    /// Whether a directory was named yet.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.shared.watching.load(Ordering::Acquire)
    }

    /// A reader of announcements.
    #[must_use]
    pub fn announcements(self: &Arc<Self>) -> Announcements {
        self.shared.book().reader_came(Instant::now());
        Announcements { shared: self.shared.clone(), after: 0 }
    }

    /// The client's answer to an announcement, after which its file is uploaded.
    ///
    /// # Errors
    /// When no answer for this path is due: in one sentence, without the URL.
    pub fn answer(self: &Arc<Self>, filepath: &str, url: Secret, content_type: &str) -> Result<(), Refused> {
        let shared = self.shared.clone();
        if shared.stop.is_cancelled() {
            return Err(Refused::Ended);
        }
        let (key, root, version) = shared.book().answer(filepath, Instant::now())?;
        let relative = key.strip_prefix(&root).unwrap_or(&key).to_owned();
        let upload = Upload {
            directory: root.to_path_buf(),
            relative,
            version,
            url,
            content_type: content_type.to_owned(),
            patience: shared.limits.put,
        };
        let runtime = shared.runtime.clone();
        let tasks = shared.tasks.clone();
        tasks.spawn_on(carried(async move { shared.upload(key, upload).await }), &runtime);
        Ok(())
    }

    /// The end of a request: waits until every file written so far is announced, answered and uploaded, or the bounds
    /// are spent. What failed since the last call is returned. Cancel-safe: failures stay for the next call.
    pub async fn settle(self: &Arc<Self>) -> Vec<ArtifactFailure> {
        self.finish(self.shared.limits.whole).await
    }

    /// The end of a session: as [`Handout::settle`], with its own bound.
    pub async fn drain(self: &Arc<Self>) -> Vec<ArtifactFailure> {
        self.finish(self.shared.limits.drain).await
    }

    async fn finish(&self, whole: Duration) -> Vec<ArtifactFailure> {
        if !self.is_watching() {
            return Vec::new();
        }
        let shared = &self.shared;
        let mut start = Instant::now();
        let mut written: Option<BTreeSet<PathBuf>> = None;
        loop {
            let moved = shared.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let when = if written.is_none() { When::RequestEnds } else { When::RequestWaits };
            shared.clone().sweep(when).await;
            // What is written from now on belongs to somebody else.
            let waited = shared.book().waited_for();
            let waited = match &written {
                None => waited,
                Some(written) => waited.intersection(written).cloned().collect(),
            };
            written = Some(waited.clone());
            if waited.is_empty() || shared.stop.is_cancelled() {
                break;
            }
            let now = Instant::now();
            if now >= start + whole {
                let after = format!("after {whole:?}");
                shared.book().give_up(&waited, false, &|state| format!("{state} {after}"));
                break;
            }
            let answers = shared.book().answers_until(&waited, start, shared.limits.answer);
            if answers.is_some_and(|until| now >= until) {
                let after = format!("within {:?}", shared.limits.answer);
                shared.book().give_up(&waited, true, &|state| format!("{state} {after}"));
                continue;
            }
            let mut until = (start + whole).min(answers.unwrap_or(start + whole));
            if shared.book().next_quiet(shared.limits.quiet).is_some() {
                // Scanning costs more than asking.
                let pause = if shared.incomplete.load(Ordering::Acquire) { LOOK * 10 } else { LOOK };
                until = until.min(now + pause);
            }
            tokio::select! {
                () = moved => {}
                () = shared.stop.cancelled() => {}
                slept = awake::sleep_until(until.into()) => if let Err(Missed(missed)) = slept {
                    // Nobody could answer meanwhile, and the socket of who would have is gone.
                    start += missed;
                    shared.book().reader_came(Instant::now());
                },
            }
        }
        shared.book().take_failures()
    }
}

impl std::fmt::Debug for Handout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handout").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl Announcements {
    /// The next file whose announcement is due, or `None` when the session's handout has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Announcement> {
        loop {
            let moved = self.shared.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.shared.stop.is_cancelled() {
                return None;
            }
            let due = self.shared.book().due_after(self.after);
            if let Some((number, announcement)) = due {
                self.after = number;
                return Some(announcement);
            }
            tokio::select! {
                () = moved => {}
                () = self.shared.stop.cancelled() => return None,
            }
        }
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tree(&self) -> MutexGuard<'_, Option<Tree>> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks.
    fn add(self: Arc<Self>, watch: &Watch) -> Result<(), WatchError> {
        let mut tree = self.tree();
        let is_first = tree.is_none();
        let tree = tree.get_or_insert_with(|| {
            let kernel = self.kernel.clone().map_or_else(Kernel::shared, Ok).map_err(|error| {
                tracing::warn!("the system does not watch directories for us, they are scanned: {error}");
            });
            Tree::new(kernel.ok(), self.inbox.clone(), self.book.clone(), self.limits.max_files)
        });
        let mut first_error = None;
        for directory in &watch.directories {
            if let Err(why) = tree.add(directory, watch.ignore.as_deref()) {
                first_error.get_or_insert(WatchError { directory: directory.clone(), why });
            }
        }
        self.incomplete.store(tree.is_incomplete(), Ordering::Release);
        self.watching.store(true, Ordering::Release);
        self.inbox.filled.notify_one();
        if is_first {
            let shared = self.clone();
            let following = async move { shared.follow().await };
            // It goes on when the turn has ended that began it.
            self.tasks.spawn_on(Whose::here().beyond_the_turn().does(following), &self.runtime);
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Looks at what happened, off the threads that must not block. Cancel-safe: it goes on without its caller.
    async fn sweep(self: Arc<Self>, when: When) {
        let runtime = self.runtime.clone();
        let swept = runtime.spawn_blocking(carried_call(move || {
            let due = {
                let mut tree = self.tree();
                let Some(tree) = tree.as_mut() else { return };
                if self.stop.is_cancelled() {
                    return;
                }
                let before = self.book().last_number();
                tree.sweep(self.limits.quiet, when);
                self.incomplete.store(tree.is_incomplete(), Ordering::Release);
                self.book().last_number() != before
            };
            if due {
                self.moved.notify_waiters();
            }
        }));
        // It fails only where the runtime is shutting down.
        let _ = swept.await;
    }

    /// Announces files while a session lives.
    async fn follow(self: Arc<Self>) {
        loop {
            let now = Instant::now();
            let quiet = self.book().next_quiet(self.limits.quiet);
            let scan = self.incomplete.load(Ordering::Acquire).then(|| now + SCAN);
            let next = quiet.into_iter().chain(scan).min();
            let alarm = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let gather = async {
                tokio::select! {
                    () = alarm => {}
                    // A sweep at a request's end may leave files that have to become quiet.
                    () = self.moved.notified() => {}
                    () = self.inbox.filled.notified() => {}
                }
                tokio::time::sleep(GATHER).await;
            };
            tokio::select! {
                () = gather => {}
                () = self.stop.cancelled() => return,
            }
            self.clone().sweep(When::Meanwhile).await;
        }
    }

    async fn upload(self: Arc<Self>, key: PathBuf, upload: Upload) {
        let sending = async {
            match self.uploads.acquire().await {
                Ok(_place) => upload.run(&self.http).await,
                Err(_) => Sent::Failed("the server is stopping".to_owned()),
            }
        };
        let sent = tokio::select! {
            sent = sending => sent,
            () = self.stop.cancelled() => return,
        };
        self.book().sent(&key, upload.version, sent, Instant::now());
        self.moved.notify_waiters();
    }
}
