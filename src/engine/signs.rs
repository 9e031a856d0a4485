//! When a turn last gave a sign of life.
//!
//! Owns the clock of one turn's silence. Written by every event, hence without a lock; read by the turn's own limits and
//! by health checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The signs of life of one turn.
#[derive(Debug)]
pub(super) struct Signs {
    epoch: Instant,
    /// Milliseconds after `epoch`.
    last: AtomicU64,
    /// How many things go on that count as life though nothing is said.
    busy: AtomicUsize,
}

/// See [`Signs::busy`].
pub(super) struct Busy(Arc<Signs>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.alive();
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Signs {
    /// The first sign is this one.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { epoch: Instant::now(), last: AtomicU64::new(0), busy: AtomicUsize::new(0) })
    }

    /// How long ago the first one was.
    pub(super) fn age(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Here is one.
    pub(super) fn alive(&self) {
        let since = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// When the last one was.
    pub(super) fn last(&self) -> Instant {
        if self.busy.load(Ordering::Acquire) > 0 {
            return Instant::now();
        }
        self.epoch + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// From now until what is returned is dropped, something goes on that counts as life though nothing is said.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }
}
