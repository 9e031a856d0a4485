//! The kernel's notices about directories, for all sessions through one inotify instance.
//!
//! Owns the instance, which session watches what, and the inbox where a session finds what was touched. Does not know
//! what a session makes of it. A user may have 128 instances, so there is one for the process; it has a thread of its
//! own, since no runtime lives as long as it does.

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// What one read takes from the kernel at most.
const BUFFER: usize = 64 << 10;
/// Reads of one pump: twice what the kernel's own queue holds by default, so that a busy writer cannot keep it here.
const READS: usize = 64;
/// Names that wait in one inbox; beyond it everything is looked at instead.
const INBOX: usize = 16_384;

/// A directory of a session, as the session numbers them.
pub(super) type DirectoryId = u64;

/// What happened to one name since the session last looked. Several events become one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Touch {
    /// When the last of it was read from the kernel.
    pub(super) at: Instant,
    /// `false` once something was written, `true` once its writer closed it or it was renamed into place; the last counts.
    pub(super) closed: Option<bool>,
    /// It was renamed into place.
    pub(super) moved: bool,
}

/// What a session was told and has not looked at yet.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    /// Something came.
    pub(super) filled: Notify,
}

/// The content of an inbox.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) touched: HashMap<(DirectoryId, OsString), Touch>,
    /// Directories that no longer are where they were, or are no more.
    pub(super) lost: Vec<DirectoryId>,
    /// Notices were dropped: only looking at everything tells what happened.
    pub(super) overflow: bool,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.lost.is_empty() && !self.overflow
    }
}

impl Inbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that waits.
    pub(super) fn take(&self) -> Waiting {
        std::mem::take(&mut *self.waiting())
    }

    /// Whether something waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    /// Says that everything has to be looked at.
    pub(super) fn overflow(&self) {
        let mut waiting = self.waiting();
        waiting.touched.clear();
        waiting.overflow = true;
        drop(waiting);
        self.filled.notify_one();
    }

    fn put(&self, directory: DirectoryId, name: Option<&OsStr>, mask: EventMask) {
        let mut waiting = self.waiting();
        match name {
            None if mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED) => {
                waiting.lost.push(directory);
            }
            None => return,
            Some(_) if waiting.touched.len() >= INBOX => {
                drop(waiting);
                return self.overflow();
            }
            Some(name) => {
                let touch = waiting.touched.entry((directory, name.to_owned())).or_insert(Touch {
                    at: Instant::now(),
                    closed: None,
                    moved: false,
                });
                touch.at = Instant::now();
                if mask.intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO) {
                    touch.closed = Some(true);
                } else if mask.intersects(EventMask::MODIFY | EventMask::CREATE) {
                    touch.closed = Some(false);
                }
                touch.moved |= mask.contains(EventMask::MOVED_TO);
            }
        }
        drop(waiting);
        self.filled.notify_one();
    }
}

/// One watch of one session. Given back with [`Kernel::forget`].
#[derive(Debug, Clone)]
pub(super) struct Watched(WatchDescriptor, DirectoryId);

/// The one inotify instance.
pub(super) struct Kernel {
    inner: Mutex<Inner>,
}

struct Inner {
    inotify: Inotify,
    /// Two sessions may watch one directory, and one session may meet it under two names while it is being renamed.
    watches: HashMap<WatchDescriptor, Vec<(DirectoryId, Arc<Inbox>)>>,
    /// Watches there may be, for tests of what happens when the system has no more.
    at_most: usize,
    buffer: Box<[u8]>,
}

impl Kernel {
    /// The instance of this process, made at its first use.
    pub(super) fn shared() -> io::Result<Arc<Self>> {
        static SHARED: OnceLock<Mutex<Option<Arc<Kernel>>>> = OnceLock::new();
        let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = &*shared {
            return Ok(kernel.clone());
        }
        let kernel = Self::with_at_most(usize::MAX)?;
        *shared = Some(kernel.clone());
        Ok(kernel)
    }

    /// An instance that refuses more watches than these.
    pub(super) fn with_at_most(at_most: usize) -> io::Result<Arc<Self>> {
        let inotify = Inotify::init()?;
        let readable = inotify.as_fd().try_clone_to_owned()?;
        let buffer = vec![0; BUFFER].into_boxed_slice();
        let kernel = Arc::new(Self { inner: Mutex::new(Inner { inotify, watches: HashMap::new(), at_most, buffer }) });
        let weak = Arc::downgrade(&kernel);
        std::thread::Builder::new().name("inotify".to_owned()).stack_size(128 << 10).spawn(move || {
            while wait(&readable).is_ok() {
                let Some(kernel) = weak.upgrade() else { break };
                kernel.pump();
            }
        })?;
        Ok(kernel)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to watch a directory. `named` says that its last component is the user's own and may be a link.
    ///
    /// # Errors
    /// `StorageFull` (ENOSPC) when the system has no more watches, else what is wrong with the directory.
    pub(super) fn watch(&self, path: &Path, named: bool, id: DirectoryId, inbox: &Arc<Inbox>) -> io::Result<Watched> {
        let mut mask = WatchMask::MODIFY
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR
            | WatchMask::EXCL_UNLINK;
        if !named {
            mask |= WatchMask::DONT_FOLLOW;
        }
        let mut inner = self.inner();
        if inner.watches.len() >= inner.at_most {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let watch = inner.inotify.watches().add(path, mask)?;
        inner.watches.entry(watch.clone()).or_default().push((id, inbox.clone()));
        Ok(Watched(watch, id))
    }

    /// Ends a watch.
    pub(super) fn forget(&self, Watched(watch, id): Watched, inbox: &Arc<Inbox>) {
        let mut inner = self.inner();
        let Some(watchers) = inner.watches.get_mut(&watch) else { return };
        watchers.retain(|(other, theirs)| *other != id || !Arc::ptr_eq(theirs, inbox));
        if watchers.is_empty() {
            inner.watches.remove(&watch);
            // It may have ended with its directory a moment ago.
            let _ = inner.inotify.watches().remove(watch);
        }
    }

    /// Hands out all that the kernel knows. The kernel notes an event with the write itself, so that afterwards every
    /// write before the call is in its inbox.
    pub(super) fn pump(&self) {
        let mut inner = self.inner();
        let Inner { inotify, watches, buffer, .. } = &mut *inner;
        for _ in 0..READS {
            let events = match inotify.read_events(buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::error!("cannot read what the kernel says about watched directories: {error}");
                    }
                    return;
                }
            };
            for event in events {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    tracing::warn!("the kernel dropped notices about watched directories; they are scanned instead");
                    watches.values().flatten().for_each(|(_, inbox)| inbox.overflow());
                    continue;
                }
                let Some(watchers) = watches.get(&event.wd) else { continue };
                for (directory, inbox) in watchers {
                    inbox.put(*directory, event.name, event.mask);
                }
                if event.mask.contains(EventMask::IGNORED) {
                    watches.remove(&event.wd);
                }
            }
        }
    }

    /// How many directories are watched, for tests.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.inner().watches.len()
    }
}

fn wait(readable: &OwnedFd) -> nix::Result<()> {
    loop {
        match poll(&mut [PollFd::new(readable.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Err(nix::Error::EINTR) => {}
            other => return other.map(drop),
        }
    }
}
