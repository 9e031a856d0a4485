//! Whether the store works.
//!
//! Owns the one word about it that others see. A store that fails goes on to be tried: a disk that was full has room again
//! once somebody has made some.

use crate::store::StoreError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Health {
    is_failed: AtomicBool,
    /// Why, as long as it is so.
    reason: Mutex<String>,
}

impl Health {
    pub(super) fn is_ok(&self) -> bool {
        !self.is_failed.load(Ordering::Acquire)
    }

    /// What is wrong; `None` when nothing is.
    pub(super) fn trouble(&self) -> Option<String> {
        (!self.is_ok()).then(|| self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(super) fn works(&self) {
        if self.is_failed.load(Ordering::Acquire) {
            self.is_failed.store(false, Ordering::Release);
            tracing::info!("the store works again");
        }
    }

    pub(super) fn failed(&self, error: &StoreError) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&error.0);
        if !self.is_failed.swap(true, Ordering::AcqRel) {
            tracing::error!(%error, "a commit failed: what is said from here on is kept in memory only, and it is tried again");
        }
    }
}
