//! When a log writes to its spill file, and when it forgets what it has written.
//!
//! Owns the moments. The writing itself is the store's, on a thread that may block, and never under the log's lock: the
//! oldest entries are copied out, written, and only then leave memory.

use super::{Inner, LogLimits, SessionLog};
use crate::model::{Entry, Seq};
use crate::store::SpillError;
use crate::telemetry::metrics::metrics;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

/// Entries written at once, in bytes of memory.
const BATCH_BYTES: usize = 512 << 10;

impl SessionLog {
    /// Begins to write when more waits than may be in memory.
    pub(super) fn spill_if_due(self: &Arc<Self>, inner: &mut Inner) {
        if inner.spill_is_due(&self.logs.limits) {
            inner.spilling = true;
            let log = self.clone();
            self.logs.runtime.spawn_blocking(move || log.write_oldest());
        }
    }

    /// Writes one batch. Blocks.
    fn write_oldest(self: Arc<Self>) {
        let (write, in_files) = {
            let mut inner = self.inner();
            let batch = inner.oldest((self.logs.limits.hold / 4).min(BATCH_BYTES));
            if batch.is_empty() {
                // Its readers were faster.
                inner.spilling = false;
                return;
            }
            (inner.spill.write(batch, &self.logs.spill), inner.spill.in_files())
        };
        let written = write.run(&self.logs.spill);
        let mut inner = self.inner();
        let was_full = inner.is_full(&self.logs.limits);
        inner.spilling = false;
        // Freed when the lock is not held any more.
        let mut left = Vec::new();
        match written {
            Ok(written) => {
                left = inner.leave(written.last());
                metrics().spilled.inc_by(left.iter().map(|entry| entry.weight() as u64).sum());
                inner.spill.written(written);
            }
            Err(error) => {
                // Where readers have made room meanwhile, it is tried again.
                inner.unspillable = inner.spill.in_files() >= in_files;
                self.tell(&error);
            }
        }
        // Readers may have taken it meanwhile, and more may be due.
        self.let_go(&mut inner);
        let has_room = was_full && !inner.is_full(&self.logs.limits);
        drop(inner);
        drop(left);
        if has_room {
            self.freed.notify_waiters();
        }
    }

    /// Forgets spilled entries up to `taken`.
    pub(super) fn forget_spilled(&self, inner: &mut Inner, taken: Seq) {
        if inner.spill.first().is_none_or(|first| first > taken) {
            return;
        }
        let before = inner.spill.in_files();
        if let Some(retired) = inner.spill.forget(taken) {
            // Closing the last handle of a file gives its space back, which takes time.
            self.logs.runtime.spawn_blocking(move || drop(retired));
        }
        if inner.spill.in_files() < before {
            inner.unspillable = false;
        }
    }

    /// A reader has taken the entries up to `after`.
    pub(super) fn moved(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, slot: usize, after: Seq) {
        let was_full = inner.is_full(&self.logs.limits);
        inner.cursors[slot] = Some(after);
        self.let_go(&mut inner);
        let has_room = was_full && !inner.is_full(&self.logs.limits);
        drop(inner);
        if has_room {
            self.freed.notify_waiters();
        }
    }

    fn tell(&self, error: &SpillError) {
        match error {
            SpillError::Full => {
                tracing::debug!(session = %self.session, "{error}: the turn is held back until its reader reads");
            }
            SpillError::Failed(_) if !self.logs.spill_warned.swap(true, Ordering::Relaxed) => {
                let folder = self.logs.spill.folder.clone().unwrap_or_else(std::env::temp_dir);
                let folder = folder.display();
                tracing::warn!(%folder, %error, "no spill file: turns with a slow reader are held back (said once)");
            }
            SpillError::Failed(_) => {}
        }
    }
}

impl Inner {
    /// The oldest entries that readers may see, `most` bytes of them but at least one.
    fn oldest(&self, most: usize) -> Vec<Arc<Entry>> {
        let mut bytes = 0;
        let fits = |entry: &&Arc<Entry>| {
            let is_first = bytes == 0;
            bytes += entry.weight();
            entry.seq <= self.visible && (is_first || bytes <= most)
        };
        self.ring.iter().take_while(fits).cloned().collect()
    }

    /// Takes out the entries up to `last`, which are elsewhere now.
    fn leave(&mut self, last: Seq) -> Vec<Arc<Entry>> {
        let count = self.ring.partition_point(|entry| entry.seq <= last);
        let left: Vec<_> = self.ring.drain(..count).collect();
        self.ring_bytes -= left.iter().map(|entry| entry.weight()).sum::<usize>();
        left
    }

    fn spill_is_due(&self, limits: &LogLimits) -> bool {
        limits.spill_max > 0
            && self.ring_bytes > limits.hold.max(limits.ring)
            && !self.spilling
            && !self.unspillable
            && self.ring.front().is_some_and(|oldest| oldest.seq <= self.visible)
    }
}
