//! How the engine stands: what runs, when it last gave a sign of life, whether the machine may be paused now.
//!
//! Owns parking: new turns are refused, what runs ends or is cut, what was said is stored, idle connections to others
//! are closed. A parked engine is woken, or stopped; nothing else changes while it is parked.

use super::{Engine, OnDrain};
use crate::model::{Fault, FaultCode};
use crate::store::StoreHealth;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How long what was said may take to be stored.
const FLUSH: Duration = Duration::from_secs(5);
/// How long turns that are cut may take beyond the grace of their handler.
const OVERTIME: Duration = Duration::from_secs(3);

/// How an engine stands.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Turns that run or wait.
    pub turns: usize,
    /// Turns that run.
    pub running: usize,
    /// How long ago a running turn last gave a sign of life; `None` if none runs.
    pub last_progress: Option<Duration>,
    /// New turns are refused until it is woken.
    pub is_parked: bool,
    /// New turns are refused since the server stops.
    pub is_draining: bool,
    /// How the store is.
    pub store: StoreHealth,
    /// Sessions in memory that the store does not keep, though it should.
    pub without_store: usize,
}

impl Standing {
    /// Whether a pause now would cut no work.
    #[must_use]
    pub const fn is_safe_to_pause(&self) -> bool {
        self.turns == 0
    }
}

impl Engine {
    /// How it stands now. Looks at every session while a turn runs, and at two counters otherwise.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let engine = &self.0;
        let turns = self.turns();
        let now = Instant::now();
        let mut signs = Vec::new();
        if turns > 0 {
            let running = engine.registry.all().into_iter().filter_map(|session| session.running());
            signs.extend(running.filter_map(|turn| turn.signs.get().map(|signs| signs.last())));
        }
        let without_store = engine.registry.logs().without_store();
        let store = match (engine.store.health(), without_store) {
            (StoreHealth::Ok, without @ 1..) => StoreHealth::Degraded(format!(
                "{without} sessions live in memory: the store did not take what they said"
            )),
            (health, _) => health,
        };
        Standing {
            turns,
            running: signs.len(),
            last_progress: signs.iter().max().map(|last| now.saturating_duration_since(*last)),
            is_parked: self.is_parked(),
            is_draining: self.is_draining(),
            store,
            without_store,
        }
    }

    /// Makes ready for a pause: new turns are refused from now on; those that run get `wait` to end, and are then cut if
    /// `interrupt` says so, without an outcome, so that a retry runs them. Returns whether the machine may be paused: if
    /// not, turns go on, or what they said is not stored. Parked it is in any case.
    pub async fn park(&self, wait: Duration, interrupt: bool) -> bool {
        let engine = &self.0;
        engine.parked.store(true, Ordering::SeqCst);
        if tokio::time::timeout(wait, self.all_left()).await.is_err() && interrupt {
            self.cancel_all(|_: OnDrain| true);
            let grace = engine.options.stop_grace + OVERTIME;
            if tokio::time::timeout(grace, self.all_left()).await.is_err() {
                tracing::warn!(turns = self.turns(), "turns that were cut for a pause have not ended");
            }
        }
        if self.turns() > 0 {
            return false;
        }
        let is_flushed = tokio::time::timeout(FLUSH, engine.store.flush()).await.is_ok();
        engine.http.let_go();
        engine.uploads.let_go();
        engine.handler.park();
        is_flushed && self.is_parked() && self.turns() == 0
    }

    /// Takes turns again.
    pub fn wake(&self) {
        self.0.parked.store(false, Ordering::SeqCst);
    }

    /// Whether new turns are refused until it is woken.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.0.parked.load(Ordering::SeqCst)
    }

    /// Whether new turns are taken.
    ///
    /// # Errors
    /// A fault of code `Draining` or `Parked`.
    pub fn takes_turns(&self) -> Result<(), Fault> {
        if self.is_draining() {
            return Err(Fault::new(FaultCode::Draining, "shutting down"));
        }
        if self.is_parked() {
            return Err(Fault::new(FaultCode::Parked, "the server is parked for a pause"));
        }
        Ok(())
    }
}
