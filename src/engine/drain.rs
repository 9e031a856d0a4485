//! How an engine ends: new turns are refused, those that run end within the grace or are cut, the store gets the rest.
//!
//! Owns that order. When the server ends, and how long its grace is, is its own business.

use super::{Engine, STOP_GRACE_AT_EXIT};
use crate::model::{CancelReason, OnDrain};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the store may take to write what it still has.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

impl Engine {
    /// Whether new turns are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Fires when new turns are refused.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.0.drain_begun.clone()
    }

    /// Refuses new turns, cancels those whose protocol says so at once, gives the others `grace`, then cancels them.
    /// Returns when every turn has its outcome and the handler has stopped.
    pub async fn drain(&self, grace: Duration) {
        self.0.draining.store(true, Ordering::Release);
        self.0.drain_begun.cancel();
        self.cancel_all(|on_drain| on_drain == OnDrain::Cancel);
        let mut stop_grace = self.0.options.stop_grace;
        if tokio::time::timeout(grace, self.all_left()).await.is_err() {
            let spent = Instant::now();
            self.0.hurrying.store(true, Ordering::Release);
            self.cancel_all(|_| true);
            self.all_left().await;
            stop_grace = STOP_GRACE_AT_EXIT.saturating_sub(spent.elapsed());
        }
        self.0.handler.stop(stop_grace).await;
    }

    /// Returns when the store has everything, or does not answer.
    pub async fn flush(&self) {
        if tokio::time::timeout(STORE_PATIENCE, self.0.registry.flush_store()).await.is_err() {
            tracing::warn!("the store has not answered within {STORE_PATIENCE:?}: what came last may be missing in it");
        }
    }

    pub(super) async fn all_left(&self) {
        loop {
            let left = self.0.turn_left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.turns() == 0 {
                return;
            }
            left.await;
        }
    }

    pub(super) fn cancel_all(&self, which: impl Fn(OnDrain) -> bool) {
        for session in self.0.registry.all() {
            for (turn, on_drain) in session.live() {
                if which(on_drain) {
                    self.cancel(&turn, CancelReason::Draining);
                }
            }
        }
    }
}
