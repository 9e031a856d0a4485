//! What may wait for the disk: a thread that brings the log to it, writes the index, and removes what is kept no longer.
//!
//! Owns when that is done. Nobody who writes waits for it.

use super::Broken;
use super::health::Health;
use super::index::Index;
use super::retention::Retention;
use super::spans::Unindexed;
use super::writer::Shared;
use crate::store::StoreError;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

pub(super) enum Errand {
    WriteIndex,
    /// Write the index, and end.
    End,
    /// End as a killed process does, for the tests.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests kill"))]
    Die,
}

pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) index: Index,
    pub(super) unindexed: Unindexed,
    pub(super) health: Arc<Health>,
    pub(super) retention: Retention,
}

impl Keeper {
    pub(super) fn run(&mut self, errands: &Receiver<Errand>) {
        let mut looked = Instant::now();
        loop {
            match errands.recv_timeout(self.retention.every().saturating_sub(looked.elapsed())) {
                Ok(Errand::WriteIndex) => self.write_index(),
                Ok(Errand::End) => return self.close(),
                Ok(Errand::Die) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if looked.elapsed() >= self.retention.every() {
                self.make_room();
                looked = Instant::now();
            }
        }
    }

    /// The next start need not look for what the index lacks.
    fn close(&mut self) {
        if self.health.is_ok() {
            self.write_index();
        }
    }

    /// Brings the newest records to the disk, and then their places into the index, while others go on to write.
    fn write_index(&mut self) {
        self.shared.index_begins();
        if self.unindexed.is_empty() {
            return;
        }
        // In this order: what comes in between is brought to the disk without need.
        let newest = self.unindexed.snapshot();
        let files = self.shared.appender().log.unsynced();
        let synced = files.iter().try_for_each(|file| file.sync_data()).map_err(Broken::from);
        match synced.and_then(|()| self.index.write(&newest)) {
            Ok(()) => self.unindexed.take_out(&newest),
            Err(error) => self.failed(&error),
        }
    }

    fn make_room(&mut self) {
        if !self.health.is_ok() {
            return;
        }
        // What is not in the index is not removed.
        if self.unindexed.are_some() {
            self.write_index();
        }
        let end = self.shared.appender().log.end();
        match self.retention.step(&mut self.index, &self.unindexed, end) {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(removed, "what was kept too long is gone"),
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &Broken) {
        self.health.failed(&StoreError(error.to_string()));
    }
}
